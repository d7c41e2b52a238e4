"""Where DeploymentService listens: a Unix socket of the server's own user, and TCP if it is wanted.

TCP takes mutual TLS only: whoever reaches this service decides which model judges.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from guard_control.api.deployment_service import DeploymentService
from guard_server.listening import cannot_listen
from guard_server.tls.certificates import CertificateFiles
from guard_server.tls.renewal import RenewedCertificates

_RENEW_S = 5.0
_LOOK_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ControlTcp:
    """An address, and the files of the certificates; callers must have one of their authorities."""

    host: str
    port: int
    files: CertificateFiles


@asynccontextmanager
async def listening(
    service: DeploymentService,
    socket: Path,
    tcp: ControlTcp | None,
    announce: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Serves while the block runs. Raises OSError if it can't listen, or CertificateInvalid.

    `socket`: a path of at most 107 bytes, in a directory that only its owner may enter. One that is
    deleted is made again. `announce` is called once it is there, each time.
    """
    servers = [_serving(service, socket)]
    followed = []
    if tcp is not None:
        certificates = RenewedCertificates(tcp.files)
        _listen(servers[0], tcp, certificates.credentials())
        followed.append(asyncio.create_task(certificates.follow(_RENEW_S)))
    await servers[0].start()
    announce()
    followed.append(asyncio.create_task(_keep(servers, service, socket, announce)))
    try:
        yield
    finally:
        for task in followed:
            task.cancel()
        await service.cancel_rollout("The server is stopping.")
        await asyncio.gather(*(server.stop(None) for server in servers))


async def _keep(
    servers: list[grpc.aio.Server],
    service: DeploymentService,
    socket: Path,
    announce: Callable[[], None],
) -> None:
    """Listens on the socket once more when it is lost; who is connected stays connected."""
    while True:
        await asyncio.sleep(_LOOK_S)
        if not await asyncio.to_thread(_lost, socket):
            continue
        try:
            server = _serving(service, socket)
            await server.start()
            servers.append(server)
            announce()
        except OSError as error:
            _log.error("the control socket was lost, and can't be made again", reason=str(error))
        else:
            _log.error("the control socket was lost: it was made again", socket=str(socket))


def _lost(socket: Path) -> bool:
    """Whether it is gone from a directory that is there."""
    return not socket.exists() and socket.parent.exists()


def _serving(service: DeploymentService, socket: Path) -> grpc.aio.Server:
    """A server on the socket, not started yet. Raises OSError."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(service.handlers()))
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise OSError(f"Can't listen on {socket}: {error}") from None
    os.chmod(socket, 0o600)  # noqa: PTH101 - in memory: it does not block
    return server


def _listen(server: grpc.aio.Server, tcp: ControlTcp, credentials: grpc.ServerCredentials) -> None:
    host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
    try:
        server.add_secure_port(f"{host}:{tcp.port}", credentials)
    except RuntimeError as error:
        raise cannot_listen(tcp.host, tcp.port, error, "--control-port") from None
