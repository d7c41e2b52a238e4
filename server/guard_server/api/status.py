"""Builds google.rpc.Status messages from errors."""

import re

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from guard_core.errors import GuardError, Overloaded, QuotaExceeded, RequestInvalid
from guard_server.status_codes import STATUS_CODES


def message(error: GuardError) -> status_pb2.Status:
    """The error with its code and details: ErrorInfo, BadRequest, QuotaFailure, RetryInfo."""
    # FooBar -> FOO_BAR
    reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="qwen3guard")]
    if isinstance(error, RequestInvalid):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, QuotaExceeded):
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject, description=error.quota
        )
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if isinstance(error, Overloaded | QuotaExceeded) and error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, int(error.retry_after * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(
        code=code_pb2.Code.Value(STATUS_CODES[type(error)].name), message=str(error)
    )
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
