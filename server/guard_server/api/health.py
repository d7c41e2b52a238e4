"""grpc.health.v1: what callers and load balancers are told.

Written here, because in grpcio-health-checking 1.81 the end of one Watch orphans every other, and a
Watch that is not read holds up whoever sets the status.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Status = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """One status for the server as a whole (the empty name) and each of its services."""

    def __init__(self, *services: str) -> None:
        self._services = ("", *services)
        self._serving = False
        self._for_good = False
        self._closed = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool, for_good: bool = False) -> None:
        """Tells everybody at once. After `for_good` it changes no more."""
        if not self._for_good:
            self._serving, self._for_good = serving, for_good
            self._tell()

    def close(self) -> None:
        """Ends every Watch."""
        self._closed = True
        self._tell()

    async def Check(  # noqa: N802  (grpc's name)
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of that name.")
        return _Status(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, _context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                yield _Status(status=status)
                last = status
            if self._closed:  # only now: everybody hears the last status
                return
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
