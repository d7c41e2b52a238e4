"""GatewayStatusService: what this gateway does, for rollouts over several gateways.

It has a port of its own with mutual TLS, since callers of the gateway have no business there, and
the gateway itself may listen in plain text behind something that encrypts. Workers share that port
too, and whichever of them is asked answers for all.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from guard_server.api.decoding import Received
from guard_server.api.handlers import faultless, generic_handler
from guard_server.api.reflection import Reflection
from guard_server.gateway_status.last_minute import LastMinute
from guard_server.gateway_status.status_messages import to_message
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.listening import cannot_listen
from guard_server.settings import Settings
from guard_server.telemetry import worker_status
from guard_server.telemetry.worker_status import OwnStatus
from guard_server.tls.certificates import status_files_of
from guard_server.tls.renewal import RenewedCertificates
from qwen3guard.v1 import gateway_status_pb2 as pb

_SERVICE: Any = pb.DESCRIPTOR.services_by_name["GatewayStatusService"]
_MOST_BYTES = 4_096  # of a request, which has no field
_RENEW_S = 5.0

_Context = grpc.aio.ServicerContext[Any, Any]


class GatewayStatusService:
    """Reads what the workers of this gateway publish; without that, this process alone."""

    def __init__(self, own: OwnStatus, directory: Path | None) -> None:
        """`directory`: of the worker status files."""
        self._own = own
        self._directory = directory
        self._version = version("qwen3guard-server")
        self.last_minute = LastMinute()

    async def GetStatus(  # noqa: N802  (grpc's name)
        self, received: Received[pb.GetStatusRequest], context: _Context
    ) -> pb.GetStatusResponse:
        await faultless(received, context)
        workers = self.snapshot().statuses
        return pb.GetStatusResponse(
            version=self._version,
            workers=[to_message(worker, self.last_minute) for worker in workers],
        )

    def snapshot(self) -> WorkerSnapshot:
        """This process as it is now, and the others as they have written."""
        found = {status.key: status for status in self._published()}
        own = self._own.read()
        found[own.key] = own
        return WorkerSnapshot(frozenset(found), tuple(found.values()))

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Of its method, and of the reflection of it."""
        return generic_handler(_SERVICE, self), *Reflection((_SERVICE,)).handlers()

    def _published(self) -> Sequence[worker_status.WorkerStatus]:
        return list(worker_status.read(self._directory)) if self._directory else ()


@asynccontextmanager
async def listening(settings: Settings, own: OwnStatus) -> AsyncIterator[None]:
    """Serves while the block runs, if the settings say where.

    Raises OSError if it can't listen, or CertificateInvalid.
    """
    files = status_files_of(settings)
    if files is None:
        yield
        return
    certificates = RenewedCertificates(files)
    service = GatewayStatusService(own, settings.status)
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(settings.reuse_port)),
            ("grpc.max_receive_message_length", _MOST_BYTES),
        ]
    )
    server.add_generic_rpc_handlers(tuple(service.handlers()))
    host = f"[{settings.status_host}]" if ":" in settings.status_host else settings.status_host
    try:
        server.add_secure_port(f"{host}:{settings.status_port}", certificates.credentials())
    except RuntimeError as error:
        port = settings.status_port or 0
        raise cannot_listen(settings.status_host, port, error, "GUARD_STATUS_PORT") from None
    following = asyncio.create_task(certificates.follow(_RENEW_S))
    await server.start()
    try:
        async with service.last_minute.followed(service.snapshot):
            yield
    finally:
        following.cancel()
        await server.stop(None)
