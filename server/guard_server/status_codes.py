"""The gRPC status of every error: the one table."""

import grpc

from guard_core.errors import (
    CallerNotAllowed,
    DeadlinePassed,
    EngineFailed,
    GuardError,
    ModelUnknown,
    Overloaded,
    QuotaExceeded,
    RequestInvalid,
    ServerFault,
    SlotNotAllowed,
    SlotUnknown,
    Unauthenticated,
    Unavailable,
    VerdictUngrammatical,
)

STATUS_CODES: dict[type[GuardError], grpc.StatusCode] = {
    RequestInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    SlotNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    CallerNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    SlotUnknown: grpc.StatusCode.NOT_FOUND,
    ModelUnknown: grpc.StatusCode.NOT_FOUND,
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    EngineFailed: grpc.StatusCode.INTERNAL,
    VerdictUngrammatical: grpc.StatusCode.INTERNAL,
    ServerFault: grpc.StatusCode.INTERNAL,
}
