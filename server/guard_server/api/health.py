"""grpc.health.v1: whether the server and its services are serving.

Written here, because in grpcio-health-checking 1.81 the end of one Watch orphans every other, and a
Watch that is not read blocks the caller that sets the status.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_server.api.calls import Context

_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """One status for the server as a whole (the empty name) and each of its services."""

    def __init__(self, *services: str) -> None:
        self._services = ("", *services)
        self._serving = False
        self._for_good = False
        self._closed = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool, for_good: bool = False) -> None:
        """Updates every Watch at once. After `for_good` it changes no more."""
        if not self._for_good:
            self._serving, self._for_good = serving, for_good
            self._notify()

    def close(self) -> None:
        """Ends every Watch."""
        self._closed = True
        self._notify()

    async def Check(  # noqa: N802  (grpc's name)
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of that name.")
        return _Status(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                yield _Status(status=status)
                last = status
            if self._closed:  # only now, so that every Watch gets the last status
                return
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
