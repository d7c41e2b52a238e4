"""The client of Qwen3Guard Server: a conversation in, a typed verdict out.

    with Client("localhost:50051", insecure=True) as guard:
        reply = guard.moderate("How do I boil an egg?")
        if reply.action != Action.ACTION_ALLOW:
            print(Action.Name(reply.action), Severity.Name(reply.verdict.severity))

A conversation that could not be judged is a GuardError and never a verdict; whether to fail open
or closed is the caller's choice. The messages are those of `qwen3guard.v1`.
"""

from qwen3guard.v1.moderation_pb2 import ModerateRequest, ModerateResponse
from qwen3guard.v1.types_pb2 import (
    Action,
    Category,
    CategoryRule,
    ControversialTreatment,
    Message,
    Mode,
    Policy,
    Refusal,
    Role,
    Severity,
)
from qwen3guard_client._aio import AsyncClient
from qwen3guard_client._client import Client
from qwen3guard_client._errors import (
    DeadlineExceeded,
    GuardError,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    ServerFailed,
    Unavailable,
    Violation,
)
from qwen3guard_client._live import LiveEvent
from qwen3guard_client._requests import Outcome, request

__all__ = [
    "Action",
    "AsyncClient",
    "Category",
    "CategoryRule",
    "Client",
    "ControversialTreatment",
    "DeadlineExceeded",
    "GuardError",
    "InvalidRequest",
    "LiveEvent",
    "Message",
    "Mode",
    "ModerateRequest",
    "ModerateResponse",
    "NotAllowed",
    "Outcome",
    "Overloaded",
    "Policy",
    "Refusal",
    "Role",
    "ServerFailed",
    "Severity",
    "Unavailable",
    "Violation",
    "request",
]
