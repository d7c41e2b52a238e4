"""Why an operation failed, and the gRPC status of each reason.

OperationError
├── InvalidOperation     an argument is invalid
├── NoSuchSlot           no slot of that name runs
├── PreconditionFailed   a gate failed, a wait timed out, or the slots' state forbids it
├── OperationInProgress  another operation runs
└── Superseded           a rollback or the end of the server cancelled it
"""

import grpc


class OperationError(Exception):
    """An operation that failed. The text says why and what to do next."""


class InvalidOperation(OperationError):
    """A value is out of range, or a path is relative."""


class NoSuchSlot(OperationError):
    """The request names a slot that does not run. The text lists those that do."""


class PreconditionFailed(OperationError):
    """A gate failed, a wait timed out, or the slots' state forbids the operation."""


class OperationInProgress(OperationError):
    """Operations run one at a time: retry when the current one has ended."""


class Superseded(OperationError):
    """A rollout was cancelled from outside. The text says by what."""


STATUS: dict[type[OperationError], grpc.StatusCode] = {
    InvalidOperation: grpc.StatusCode.INVALID_ARGUMENT,
    NoSuchSlot: grpc.StatusCode.NOT_FOUND,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    OperationInProgress: grpc.StatusCode.ABORTED,
    Superseded: grpc.StatusCode.ABORTED,
}
