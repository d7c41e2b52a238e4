"""Where both faces hand in what they are asked: one path, and everything counted once."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
import structlog
from grpc_status import rpc_status

from guard_core.errors import STATUS, GuardError, ServerFault
from guard_server.api import responses as replies
from guard_server.api.validation import Conversation
from guard_server.pipeline.moderator import Moderated, Moderator, Stopwatch
from guard_server.routing.limiter import Caller
from guard_server.telemetry.kserve_statistics import Statistics
from guard_server.telemetry.prometheus import Metrics

_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


class Desk:
    """Judges what either face reads, and keeps the counts."""

    def __init__(self, moderator: Moderator, metrics: Metrics | None) -> None:
        self._moderator = moderator
        self._metrics = metrics
        self.statistics = Statistics()

    async def judge(
        self, method: str, read: Callable[[], Conversation], caller: Caller
    ) -> tuple[Moderated, Stopwatch]:
        """Judges the conversation that `read` gives, or refuses by a GuardError.

        Raises a GuardError if there is no verdict, whatever went wrong. Cancelling it frees the
        engine's place.
        """
        watch = Stopwatch()
        try:
            conversation = read()
            watch.passed("validate")
            moderated = await self._moderator.moderate(conversation, caller, watch)
        except asyncio.CancelledError:
            self._failed(method, grpc.StatusCode.CANCELLED, watch)
            raise
        except Exception as error:
            known = known_error(error)
            self._failed(method, STATUS[type(known)], watch)
            raise known from None
        self.statistics.judged(moderated, watch)
        if self._metrics is not None:
            self._metrics.judged(method, moderated, watch)
        return moderated, watch

    def _failed(self, method: str, code: grpc.StatusCode, watch: Stopwatch) -> None:
        self.statistics.failed(watch)
        if self._metrics is not None:
            self._metrics.failed(method, code)


def caller_of(context: _Context, *, many: bool = False) -> Caller:
    """Who calls: a connection. `many`: the call brings many requests, one after the other."""
    left = context.time_remaining()
    return Caller(
        context.peer(),
        None if left is None else time.monotonic() + left,
        asyncio.Lock() if many else None,
    )


async def abort(context: _Context, error: Exception) -> NoReturn:
    """Ends the call with the error's status and details, and never returns."""
    status = rpc_status.to_status(replies.status(known_error(error)))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort always raises")


def known_error(error: Exception) -> GuardError:
    """The error as the tree has it. What it doesn't have is a defect, and is logged as one."""
    if isinstance(error, GuardError):
        return error
    _log.error("unexpected error", exc_info=error)
    return ServerFault("The server failed. Nothing was judged; its log says more.")
