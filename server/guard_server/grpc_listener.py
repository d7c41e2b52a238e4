"""The gateway's gRPC servers: their bounds, and where they listen."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc

from guard_server.api.validation import MAX_MESSAGE_BYTES
from guard_server.listening import cannot_listen, cut_off, private_directory
from guard_server.pipeline.turns import RefusalTurns
from guard_server.settings import Settings
from guard_server.tls.allowed_callers import AllowedCallers
from guard_server.tls.renewal import RenewedCertificates

_MAX_CONNECTIONS = 1024  # of a worker
_MAX_METADATA_BYTES = 16 * 2**10
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Of a connection. With 256, calls of a client with so many in flight ended as UNAVAILABLE: what
    # has ended counts for a while.
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
    # Room for large tokens of callers and meshes. By default 8 KiB are promised, and what is larger
    # is refused at random up to 16 KiB.
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
    # A caller that vanished is found out; a caller that pings often is not cut off.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

Handlers = Sequence[grpc.GenericRpcHandler]


class Listeners:
    """The port for callers and, if it is set, that of this worker for edges."""

    def __init__(
        self,
        settings: Settings,
        certificates: RenewedCertificates | None,
        refusals: RefusalTurns,
        handlers: Handlers,
        edge_handlers: Handlers,
    ) -> None:
        """Binds them, for the handlers of each. Raises OSError."""
        self._servers = [_server(settings, settings.allowed_callers, refusals, handlers)]
        # Without SO_REUSEPORT, a second server on the port is a mistake, not a worker.
        self.port = _listen(self._servers[0], settings, settings.port, certificates, "GUARD_PORT")
        self._at: list[int | Path] = [self.port]
        if settings.edge_port is not None or settings.edge_sockets is not None:
            edge = _server(settings, settings.edges, refusals, edge_handlers, shared=False)
            self._servers.append(edge)
            self._at.append(_listen_for_edges(edge, settings, certificates))

    async def start(self) -> None:
        """Takes calls from now on."""
        for server in self._servers:
            await server.start()

    def cut_off(self) -> None:
        """Ends what listens, and every connection once all is sent."""
        for at in self._at:
            cut_off(at)

    async def stop(self, grace_s: float) -> None:
        """Cancels calls that are in flight after that time."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))


def _server(
    settings: Settings,
    names: frozenset[str],
    refusals: RefusalTurns,
    handlers: Handlers,
    *,
    shared: bool = True,
) -> grpc.aio.Server:
    """A server for callers with these names in their certificates; empty: for all."""
    server = grpc.aio.server(
        interceptors=[AllowedCallers(names, refusals)] if names else [],
        options=[
            *_OPTIONS,
            ("grpc.so_reuseport", int(settings.reuse_port and shared)),
            ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
        ],
    )
    server.add_generic_rpc_handlers(handlers)
    return server


def _listen_for_edges(
    server: grpc.aio.Server, settings: Settings, certificates: RenewedCertificates | None
) -> int | Path:
    """Each worker has its own, so that a proxy balances over the workers."""
    if settings.edge_port is not None:
        port = settings.edge_port + settings.worker
        return _listen(server, settings, port, certificates, "GUARD_EDGE_PORT")
    assert settings.edge_sockets is not None  # noqa: S101  (asked for by the caller)
    private_directory(settings.edge_sockets)
    path = settings.edge_sockets.absolute() / f"worker-{settings.worker}.sock"
    path.unlink(missing_ok=True)  # of a worker that was killed
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(
            f"Can't listen on {path}: {error}. Name another directory with GUARD_EDGE_SOCKETS; "
            "the system takes paths of 107 bytes at most."
        ) from None
    return path


def _listen(
    server: grpc.aio.Server,
    settings: Settings,
    port: int,
    certificates: RenewedCertificates | None,
    option: str,
) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{port}"
    try:
        if certificates:
            return server.add_secure_port(address, certificates.credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise cannot_listen(settings.host, port, error, option) from None
