"""Where DeploymentService listens: a Unix socket of the server's own user, and TCP if it is wanted.

TCP takes mutual TLS only: whoever reaches this service decides which model judges.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from guard_control.api.deployment_service import DeploymentService
from guard_server.listening import cannot_listen


@dataclass(frozen=True, slots=True)
class ControlTcp:
    """An address, and the PEM files of both sides' certificates."""

    host: str
    port: int
    cert: Path
    key: Path
    client_ca: Path


@asynccontextmanager
async def listening(
    service: DeploymentService, socket: Path, tcp: ControlTcp | None
) -> AsyncIterator[None]:
    """Serves while the block runs. Raises OSError if it can't listen, or a file can't be read.

    `socket`: a path of at most 107 bytes, in a directory that only its owner may enter.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(service.handlers()))
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise OSError(f"Can't listen on {socket}: {error}") from None
    os.chmod(socket, 0o600)  # noqa: PTH101 - in memory: it does not block
    if tcp is not None:
        _listen(server, tcp)
    await server.start()
    try:
        yield
    finally:
        await service.cancel_rollout("The server is stopping.")
        await server.stop(None)


def _listen(server: grpc.aio.Server, tcp: ControlTcp) -> None:
    credentials = grpc.ssl_server_credentials(
        [(_read(tcp.key), _read(tcp.cert))],
        root_certificates=_read(tcp.client_ca),
        require_client_auth=True,
    )
    host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
    try:
        server.add_secure_port(f"{host}:{tcp.port}", credentials)
    except RuntimeError as error:
        hint = "is the port in use, or a certificate or key not PEM"
        raise cannot_listen(tcp.host, tcp.port, error, hint=hint) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} can't be read: {error.strerror}.") from None
