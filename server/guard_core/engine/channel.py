"""How a Triton is reached: a Unix socket on its machine, or TCP with certificates of both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

Options = Sequence[tuple[str, int | str]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TritonTls:
    """PEM files: the authorities of Triton's certificate, and what it is shown."""

    ca: Path
    cert: Path
    key: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError, whose text names the file."""
        return grpc.ssl_channel_credentials(*map(_read, (self.ca, self.key, self.cert)))


class RenewedCredentials:
    """What the files hold when a connection is made; if they can't be read, what they held last."""

    def __init__(self, tls: TritonTls | None) -> None:
        """None: plain text, for a socket. Raises OSError, whose text names the file."""
        self._tls = tls
        self._last = tls.credentials() if tls else None

    def current(self) -> grpc.ChannelCredentials | None:
        if self._tls is not None:
            try:
                self._last = self._tls.credentials()
            except OSError as error:
                _log.error("certificates not renewed: the last ones stay", reason=str(error))
        return self._last


def aio_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    """A channel to a Triton's gRPC address."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def blocking_channel(target: str, tls: TritonTls | None, options: Options) -> grpc.Channel:
    """The same for calls that block. Raises OSError if a file can't be read."""
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} can't be read: {error.strerror}.") from None
