"""Whether a server that can't be reached disagrees with the client about TLS."""

import socket
import ssl
import threading
import time

from qwen3guard_client._errors import GuardError, Unavailable

_LOOK_S = 1.0
_LOOK_AGAIN_S = 10.0  # callers of a server that is down do not add to its load
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


class Security:
    """gRPC's own error may name another of the server's addresses, or only say that it hung up."""

    def __init__(self, target: str, *, insecure: bool) -> None:
        self._address = address_of(target)
        self._insecure = insecure
        self._lock = threading.Lock()
        self._looked: float | None = None  # seconds, monotonic
        self._found = ""

    def explained(self, error: GuardError) -> GuardError:
        """A connection's error with what is wrong with its security, if anything is. Blocks."""
        if not isinstance(error, Unavailable) or error.reason or not self._address:
            return error
        with self._lock:
            now = time.monotonic()
            if self._looked is None or now - self._looked > _LOOK_AGAIN_S:
                self._found, self._looked = self._mismatch(*self._address), now
        if not self._found:
            return error
        return Unavailable(error.code, f"{self._found} gRPC says: {error}")

    def _mismatch(self, host: str, port: int) -> str:
        speaks_tls = _speaks_tls(host, port)
        if speaks_tls and self._insecure:
            return f"{host}:{port} speaks TLS only: leave insecure=True out."
        if speaks_tls is False and not self._insecure:
            return f"{host}:{port} speaks no TLS: use insecure=True, or give it a certificate."
        return ""


def address_of(target: str) -> tuple[str, int] | None:
    """Host and port of a target such as `localhost:50051`, `dns:///[::1]:50051`; others: None.

    Of a list of addresses they are the first one's.
    """
    address = target.rpartition("/")[2].partition(",")[0]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None


def _speaks_tls(host: str, port: int) -> bool | None:
    """None if there is no answer."""
    context = ssl.create_default_context()
    try:
        with socket.create_connection((host, port), timeout=_LOOK_S) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLEOFError:
        return None
    except ssl.SSLError as error:  # such as a certificate that is not trusted
        return error.reason not in _NO_TLS
    except OSError:
        return None
    return True
