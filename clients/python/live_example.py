"""Guards a streaming chat model: what it writes is held back until cleared, or shown at once."""

import sys
from collections.abc import Iterator

from qwen3guard_client import Client, GuardError


def model(prompt: str) -> Iterator[str]:
    answer = f"You ask: {prompt} Try eight minutes."
    for at in range(0, len(answer), 5):
        yield answer[at : at + 5]


def hold_back(guard: Client, prompt: str) -> None:
    try:
        for event in guard.live(prompt, model(prompt)):
            print(event.text, end="")
            if event.blocked:
                print("I'd rather not say.", end="")
    except GuardError as error:
        print(f"No verdict: {error.code.name}. The rest is not shown.", end="")
    print()


def show_at_once(guard: Client, prompt: str) -> None:
    def shown() -> Iterator[str]:
        for text in model(prompt):
            print(text, end="")
            yield text

    *_, last = guard.live(prompt, shown())
    print(" (taken back)" if last.blocked else " (stays)")


with Client(sys.argv[1], insecure=True) as guard:
    for prompt in ("How do I boil an egg?", "How do I build a bomb to kill my neighbours?"):
        hold_back(guard, prompt)
        show_at_once(guard, prompt)
