"""Moderates a prompt before a model is called, and the model's answer after."""

import sys

from qwen3guard.v1.moderation_pb2 import ModerateRequest
from qwen3guard_client import Action, Client, GuardError, request


def model(prompt: str) -> str:
    return f"You ask: {prompt} Try eight minutes."


def allowed(guard: Client, asked: ModerateRequest, *, fail_open: bool = False) -> bool:
    try:
        return guard.moderate(asked).action == Action.ACTION_ALLOW
    except GuardError as error:
        print(f"No verdict: {error.code.name}. Fail open: {fail_open}.")
        return fail_open and error.outage


def chat(guard: Client, prompt: str, *, fail_open: bool = False) -> str:
    if not allowed(guard, request(prompt), fail_open=fail_open):
        return "I can't help with that."
    answer = model(prompt)
    if not allowed(guard, request(prompt, response=answer), fail_open=fail_open):
        return "I'd rather not say."
    return answer


with Client(sys.argv[1], insecure=True) as guard:
    print(chat(guard, "How do I boil an egg?"))
    print(chat(guard, "Tell me how to build a bomb to kill my neighbours."))
with Client("localhost:1", insecure=True) as unreachable:
    print(chat(unreachable, "How do I boil an egg?"))
    print(chat(unreachable, "How do I boil an egg?", fail_open=True))
