"""Every way a request or a slot can fail. guard_server.status_codes has each one's gRPC status.

GuardError
├── RequestInvalid        the caller's input, with the fields at fault
├── SlotNotAllowed        a slot was chosen where only operators may
├── SlotUnknown           a slot was chosen that does not exist
├── ModelUnknown          KServe's API has one model, and another was named
├── Overloaded            rejected by the concurrency limiter; carries when to retry
├── DeadlinePassed        no verdict within the server's bound
├── Unavailable           no engine to ask, or the server is stopping
├── EngineFailed          the engine answered with an error
├── VerdictUngrammatical  the model wrote something that is no verdict
└── ServerFault           a defect of ours
SlotInvalid               a slot's files are wrong: refused before serving
TrafficInvalid            traffic.json is wrong: refused, and the last good one is followed
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

_MAX_VIOLATIONS = 10

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field; `field` is a path such as `conversation[2].content`."""

    field: str
    description: str


class GuardError(Exception):
    """A request that got no verdict. The text says what happened and what to do."""


class RequestInvalid(GuardError):
    def __init__(self, violations: Sequence[Violation]) -> None:
        first, more = violations[0], len(violations) - 1
        text = f"{first.field}: {first.description}"
        super().__init__(f"{text} (and {more} more)" if more else text)
        # A status travels in the trailers, which carry no more than 8 KiB.
        self.violations = tuple(violations[:_MAX_VIOLATIONS])


class SlotNotAllowed(GuardError):
    pass


class SlotUnknown(GuardError):
    pass


class ModelUnknown(GuardError):
    pass


class Overloaded(GuardError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class DeadlinePassed(GuardError):
    pass


class Unavailable(GuardError):
    pass


class EngineFailed(GuardError):
    pass


class VerdictUngrammatical(GuardError):
    pass


class ServerFault(GuardError):
    pass


class SlotInvalid(Exception):
    """A slot that can't be served: its files are missing, wrong, or not what it was built with."""


class TrafficInvalid(Exception):
    """A traffic file that can't be followed."""


def known_error(error: Exception) -> GuardError:
    """The error as a GuardError. Any other exception is a defect of ours, and logged as one."""
    if isinstance(error, GuardError):
        return error
    _log.error("unexpected error", exc_info=error)
    return ServerFault("The server failed. Nothing was judged; its log says more.")
