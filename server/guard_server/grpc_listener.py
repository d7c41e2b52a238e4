"""The gateway's gRPC server: its bounds, and where it listens."""

import grpc

from guard_server.api.validation import MAX_MESSAGE_BYTES
from guard_server.listening import cannot_listen
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


def server(settings: Settings, refusals: RefusalTurns) -> grpc.aio.Server:
    """A server without methods or ports yet."""
    callers = settings.allowed_callers
    return grpc.aio.server(
        interceptors=[AllowedCallers(callers, refusals)] if callers else [],
        options=[
            *_OPTIONS,
            # Without it, a second server on the port is a mistake, not a worker.
            ("grpc.so_reuseport", int(settings.reuse_port)),
            ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
        ],
    )


def listen(
    server: grpc.aio.Server, settings: Settings, certificates: RenewedCertificates | None
) -> int:
    """Binds the port, and gives its number. Raises OSError."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    try:
        if certificates:
            return server.add_secure_port(address, certificates.credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise cannot_listen(settings.host, settings.port, error, "GUARD_PORT") from None
