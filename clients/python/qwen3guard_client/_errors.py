"""Why there is no verdict.

GuardError
├── InvalidRequest    the fields at fault are in `violations`
├── NotAllowed        the caller's key does not hold, it may not choose a slot, or there is none
├── Overloaded        `retry_after` says when to try again
├── DeadlineExceeded  no verdict in time
├── Unavailable       no server, no engine, or the server is stopping
└── ServerFailed      the engine failed, or the model wrote no verdict
"""

from dataclasses import dataclass
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field, such as `conversation[2].content`."""

    field: str
    description: str


class GuardError(Exception):
    """`code` is gRPC's; `reason` is the server's, such as "OVERLOADED", or empty.

    `status` is the server's whole answer with its details. Where only a code arrived, as from a
    proxy, it holds that code and the message.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        status: status_pb2.Status | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.violations = violations
        self.retry_after = retry_after  # seconds, of an overload
        if status is None:
            status = status_pb2.Status(code=code.value[0], message=message)
        self.status = status

    @property
    def outage(self) -> bool:
        """Whether the service, and not the request, is why there is no verdict in time.

        Fail open on these only: what a request holds can bring about every other error, so that
        its author would choose what passes unjudged.
        """
        return isinstance(self, (Unavailable, DeadlineExceeded)) or (
            isinstance(self, Overloaded) and bool(self.retry_after)
        )


class InvalidRequest(GuardError):
    """The request can't be judged as it is; `violations` says what to change."""


class NotAllowed(GuardError):
    """The caller's key or certificate does not let it in, or it may not have the slot it named."""


class Overloaded(GuardError):
    """Overload, or over quota. Without `retry_after` the request itself is too large for either."""


class DeadlineExceeded(GuardError):
    """No verdict before the call's timeout or the server's own."""


class Unavailable(GuardError):
    """No server answers, no slot is ready, or the server is stopping."""


class ServerFailed(GuardError):
    """The engine failed, or what the model wrote is no verdict: don't read it as Safe."""


_KINDS: dict[grpc.StatusCode, type[GuardError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.INTERNAL: ServerFailed,
}


def ended_early() -> GuardError:
    """For a stream that a server or a proxy ended as if all were answered."""
    return Unavailable(grpc.StatusCode.UNAVAILABLE, "The server ended the stream early.")


def from_rpc(error: grpc.RpcError) -> GuardError:
    """Reads the server's status, or gRPC's code alone where there is none, as from a proxy."""
    call = cast(grpc.Call, error)  # every RpcError of a call is one too
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS:
            return from_status(status_pb2.Status.FromString(cast(bytes, value)))
    return _KINDS.get(call.code(), GuardError)(call.code(), call.details() or "")


def from_status(status: status_pb2.Status) -> GuardError:
    """Reads a status; a code without a class of its own becomes a plain GuardError."""
    reason, retry_after, violations = "", None, tuple[Violation, ...]()
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(bad):
            violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _KINDS.get(code, GuardError)(
        code,
        status.message,
        reason=reason,
        violations=violations,
        retry_after=retry_after,
        status=status,
    )
