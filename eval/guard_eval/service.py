"""The service as a client sees it: one stream, so many texts in flight, at a bounded rate."""

import asyncio
from collections.abc import Callable, Sequence

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from guard_eval.answers import Answer
from guard_eval.datasets import Item
from guard_eval.errors import EvaluationFailed
from guard_server.api import enums as contract
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import moderation_pb2_grpc, types_pb2

_ROLES = {str(role): number for number, role in contract.ROLE_OF.items()}
_SEVERITIES = {number: str(name) for name, number in contract.SEVERITIES.items()}
_GREETING = (("user", "Hello!"),)

Arrived = Callable[[Item, Answer], None]


class Service:
    """Asks one slot of a server: the one named, or the one that has the traffic."""

    def __init__(self, channel: grpc.aio.Channel, slot: str = "") -> None:
        self._stub = moderation_pb2_grpc.ModerationServiceStub(channel)
        self._slot = slot

    async def model(self) -> types_pb2.ModelInfo:
        """Which model answers. Raises EvaluationFailed if none does."""
        try:
            return (await self._stub.Moderate(self._request(_GREETING))).model
        except grpc.aio.AioRpcError as error:
            raise EvaluationFailed(
                f"The server judges nothing ({error.code().name}: {error.details()}). "
                "Is it running? `make serve` starts one; --target names another."
            ) from None

    async def judge(
        self,
        items: Sequence[Item],
        arrived: Arrived,
        *,
        fingerprint: str,
        in_flight: int,
        rate: float | None,
    ) -> None:
        """Calls `arrived` for each item, in order of completion. `rate` is requests a second.

        Raises EvaluationFailed if the stream breaks off, or another model than `fingerprint`
        answers.
        """
        stream = self._stub.StreamModerate()
        room = asyncio.Semaphore(in_flight)

        async def send() -> None:
            pause = 1 / rate if rate else 0.0
            clock = asyncio.get_running_loop().time
            due = clock()
            for index, item in enumerate(items):
                await room.acquire()
                if pause:
                    await asyncio.sleep(due - clock())
                    due = max(due, clock()) + pause
                request = self._request(item.messages)
                await stream.write(pb.StreamModerateRequest(id=str(index), request=request))
            await stream.done_writing()

        sender = asyncio.create_task(send())
        open_items = dict(enumerate(items))
        try:
            async for answer in stream:
                room.release()
                _check(answer, fingerprint)
                arrived(open_items.pop(int(answer.id)), _read(answer))
        except grpc.aio.AioRpcError as error:
            raise _broken(len(open_items), f"{error.code().name}: {error.details()}") from None
        finally:
            sender.cancel()
            stream.cancel()
            await asyncio.gather(sender, return_exceptions=True)  # what ended the stream ended it
        if open_items:
            raise _broken(len(open_items), "the server ended it")

    def _request(self, messages: Sequence[tuple[str, str]]) -> pb.ModerateRequest:
        return pb.ModerateRequest(
            conversation=[
                types_pb2.Message(role=_ROLES[role], content=content) for role, content in messages
            ],
            with_scores=True,
            slot=self._slot,
        )


def _check(answer: pb.StreamModerateResponse, fingerprint: str) -> None:
    found = answer.response.model.fingerprint
    if answer.HasField("response") and found != fingerprint:
        raise EvaluationFailed(
            f"Two models answered: {fingerprint} and {found}. A report is about one. Name its slot "
            "by --slot (the server needs --allow-slot-choice), or try again after the swap."
        )


def _broken(unanswered: int, why: str) -> EvaluationFailed:
    return EvaluationFailed(
        f"The stream broke off with {unanswered:,} texts unanswered ({why}). The answers so far "
        "are kept: run the same command again to go on."
    )


def _read(answer: pb.StreamModerateResponse) -> Answer:
    if answer.HasField("error"):
        return Answer(error=_reason(answer.error))
    verdict = answer.response.verdict
    scores = verdict.scores
    return Answer(
        severity=_SEVERITIES[verdict.severity],
        categories=tuple(contract.CATEGORY_OF[number] for number in verdict.categories),
        refusal=verdict.refusal == types_pb2.REFUSAL_YES if verdict.HasField("refusal") else None,
        scores=(scores.safe, scores.controversial, scores.unsafe)
        if verdict.HasField("scores")
        else None,
    )


def _reason(error: status_pb2.Status) -> str:
    """What kind of error, as the contract names it."""
    for detail in error.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(code_pb2.Code.Name(error.code))
