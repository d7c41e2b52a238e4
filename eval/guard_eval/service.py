"""Asks a running server for verdicts through the Python client, at a bounded rate."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from guard_core.conversation import Message, Role
from guard_core.verdict.taxonomy import Category, Severity
from guard_eval.answers import Answer
from guard_eval.errors import EvaluationFailed
from guard_eval.rows import Example
from qwen3guard.v1 import types_pb2
from qwen3guard.v1.moderation_pb2 import ModerateRequest, ModerateResponse
from qwen3guard_client import AsyncClient, GuardError, Outcome, request

_GREETING = (Message(Role.USER, "Hello!"),)
_FIRST_S = 60.0  # above the 30 s at which a server ends a request by default

Arrived = Callable[[Example, Answer], None]


class Service:
    """One slot of a server: the slot that is named, or the one that has the traffic."""

    def __init__(self, client: AsyncClient, slot: str = "") -> None:
        self._client = client
        self._slot = slot

    async def model(self) -> types_pb2.ModelInfo:
        """The model that answers. Raises EvaluationFailed if there is no answer."""
        try:
            reply = await self._client.moderate(self._request(_GREETING), timeout=_FIRST_S)
        except GuardError as error:
            raise EvaluationFailed(
                f"The server gives no verdict ({error.code.name}: {error}). "
                "Is it running? `make serve` starts one; --target names another."
            ) from None
        return reply.model

    async def judge(
        self,
        examples: Sequence[Example],
        arrived: Arrived,
        *,
        fingerprint: str,
        in_flight: int,
        rate: float | None,
    ) -> None:
        """Calls `arrived` for each example, in order of completion.

        `in_flight` is at most 64; `rate` limits requests per second. Raises EvaluationFailed if
        the stream ends early, or if a model other than `fingerprint` answers.
        """
        capacity = asyncio.Semaphore(in_flight)
        unanswered = len(examples)

        async def requests() -> AsyncIterator[ModerateRequest]:
            pause = 1 / rate if rate else 0.0
            clock = asyncio.get_running_loop().time
            due = clock()
            for example in examples:
                await capacity.acquire()
                if pause:
                    await asyncio.sleep(due - clock())
                    due = max(due, clock()) + pause
                yield self._request(example.messages)

        try:
            async with aclosing(self._client.stream(requests())) as outcomes:
                async for outcome in outcomes:
                    capacity.release()
                    _check(outcome, fingerprint)
                    unanswered -= 1
                    arrived(examples[outcome.index], _answer(outcome))
        except GuardError as error:
            raise EvaluationFailed(
                f"The stream ended with {unanswered:,} texts unanswered ({error.code.name}: "
                f"{error}). The answers so far are kept: run the same command again to go on."
            ) from None

    def _request(self, messages: Sequence[Message]) -> ModerateRequest:
        return request(conversation=to_contract(messages), with_scores=True, slot=self._slot)


def to_contract(messages: Sequence[Message]) -> list[types_pb2.Message]:
    """A conversation as the contract's messages."""
    return [
        types_pb2.Message(
            role=types_pb2.Role.Value(f"ROLE_{Role(message.role).name}"), content=message.content
        )
        for message in messages
    ]


def _check(outcome: Outcome, fingerprint: str) -> None:
    if outcome.response is None:
        return
    found = outcome.response.model.fingerprint
    if found != fingerprint:
        raise EvaluationFailed(
            f"Two models answered: {fingerprint} and {found}. A report is about one. Name its slot "
            "by --slot (the server needs --allow-slot-choice), or try again after the deployment."
        )


def _answer(outcome: Outcome) -> Answer:
    if outcome.error is not None:
        return Answer(error=outcome.error.reason or outcome.error.code.name)
    return _of_verdict(outcome.result())


def _of_verdict(response: ModerateResponse) -> Answer:
    verdict = response.verdict
    scores = verdict.scores
    return Answer(
        severity=Severity[_name(types_pb2.Severity.Name(verdict.severity))],
        categories=tuple(
            Category[_name(types_pb2.Category.Name(number))] for number in verdict.categories
        ),
        refusal=verdict.refusal == types_pb2.REFUSAL_YES if verdict.HasField("refusal") else None,
        scores=(scores.safe, scores.controversial, scores.unsafe)
        if verdict.HasField("scores")
        else None,
    )


def _name(of_contract: str) -> str:
    """SEVERITY_SAFE -> SAFE: the domain's enums have the contract's names."""
    return of_contract.partition("_")[2]
