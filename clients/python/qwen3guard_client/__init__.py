"""The client of Qwen3Guard Server: a conversation in, a typed verdict out.

    with Client("localhost:50051", insecure=True) as guard:
        reply = guard.moderate("How do I boil an egg?")

A conversation that could not be judged is a GuardError and never a verdict; whether to fail open
or closed is the caller's choice. The messages are those of `qwen3guard.v1`.
"""

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
from qwen3guard_client._requests import Outcome, request

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "GuardError",
    "InvalidRequest",
    "NotAllowed",
    "Outcome",
    "Overloaded",
    "ServerFailed",
    "Unavailable",
    "Violation",
    "request",
]
