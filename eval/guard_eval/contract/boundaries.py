"""Limits of the output, the draft and the input."""

from collections.abc import Iterator

from guard_core.conversation import Message, Mode, Role
from guard_core.engine.tensors import Generation
from guard_core.slot.manifest import Limits
from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from guard_eval.contract.finding import Finding, equal, holds
from guard_eval.contract.subject import Subject, other_than


def boundaries(subject: Subject) -> Iterator[Finding]:
    """What is allowed is answered, and what is not loses nothing."""
    limits, written = subject.limits, subject.written
    yield equal("no more tokens than asked for", subject.ask([], most=2).ids, written[:2])
    wrong = other_than(written[0])
    longest = subject.ask([wrong] * limits.max_draft_tokens).ids
    yield equal("the longest draft", longest, written[:1])
    longer = subject.ask([wrong] * (limits.max_draft_tokens + 1))
    yield holds(
        "a draft that is too long",
        passed=bool(longer.error) or longer.ids == written[:1],
        wanted=f"an error, or {written[:1]}",
        found=longer.ids,
    )
    full = subject.files.prompt.ids(longest_conversation(subject.files.prompt, limits))
    yield from _filling(subject, full)
    beyond = [*full, *[full[-1]] * (limits.max_input_tokens + 1 - len(full))]
    refused, kept = subject.engine.ask_together(
        [Generation(beyond, subject.end, 4), Generation(subject.prompt, subject.end, 2)]
    )
    yield holds(
        "a prompt that is too long",
        passed=bool(refused.error) and not refused.outputs,
        wanted="an error, and no answer to what was cut",
        found=refused.ids,
    )
    yield equal("the request beside one that fails", kept.ids, written[:2])


def _filling(subject: Subject, full: list[int]) -> Iterator[Finding]:
    """The gateway's longest request: the draft's last token is the input's last.

    What is written after such a prompt is not known; whatever it is, it must be so in each way.
    """
    limits = subject.limits
    room = min(limits.max_input_tokens - len(full), limits.max_draft_tokens)
    alone = subject.ask([], most=room + 1, prompt=full).ids
    yield holds(
        "the longest prompt",
        passed=not isinstance(alone, str),
        wanted="an answer",
        found=alone,
    )
    if isinstance(alone, str):
        return
    rest = subject.ask([], most=room, prompt=[*full, *alone[:1]]).ids
    yield equal("the rest of the answer to the longest prompt", rest, alone[1:])
    # If the model does not end within the draft, one own token follows it.
    draft = [*alone, *[subject.end] * room][:room]
    found = subject.ask(draft, prompt=full).ids
    yield equal("a prompt and draft that fill the input", found, alone)


def longest_conversation(prompt: Prompt, limits: Limits) -> tuple[Message, ...]:
    """A conversation whose prompt fills the engine's input, but for the likeliest verdict."""
    verdict = len(LabelTokens.of(prompt).likeliest[Mode.PROMPT]) + 1  # with its end token
    room = limits.max_input_tokens - min(verdict, limits.max_draft_tokens)
    words = room

    def conversation() -> tuple[Message, ...]:
        return (Message(Role.USER, " ".join(["Hello"] * words)),)

    while words > 0 and (excess := len(prompt.ids(conversation())) - room) > 0:
        words -= excess
    return conversation()
