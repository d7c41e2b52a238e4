"""The channel's options, and how long calls are retried."""

import ipaddress
import random
import time
from collections.abc import Sequence
from importlib.resources import files

from qwen3guard_client._errors import GuardError, Overloaded
from qwen3guard_client._security import address_of

DEFAULT_TIMEOUT_S = 10.0
MAX_ATTEMPTS = 5
_RECONNECT_BACKOFF_S = 0.1
_LONGEST_PAUSE_S = 2.0  # unless the server says more; as after UNAVAILABLE

ChannelOptions = Sequence[tuple[str, str | int]]
"""gRPC channel arguments."""

Metadata = Sequence[tuple[str, str]]
"""Keys in lower case, and their values."""

# Round robin over the target's addresses, and retries of what failed with UNAVAILABLE.
_OPTIONS: ChannelOptions = [
    (
        "grpc.service_config",
        (files("qwen3guard_client") / "service_config.json").read_text(encoding="utf-8"),
    ),
    # A worker that ends leaves its port to others: one second, gRPC's own first pause, is most of
    # the time for which calls are retried.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # this one counts: a minute whatever the other one is
]


def arguments(target: str, options: ChannelOptions) -> ChannelOptions:
    """The client's own channel arguments and a caller's, which win."""
    # As in Go and Java, an http_proxy of the environment is not asked for loopback.
    direct = [("grpc.enable_http_proxy", 0)] if _is_loopback(target) else []
    return [*_OPTIONS, *direct, *options]


def with_key(metadata: Metadata, key: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call. Raises ValueError, which does not quote the key."""
    if key is None:
        return tuple(metadata)
    key = key.strip()  # a file's last line has an end
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError("The API key is empty, or holds more than printable ASCII.")
    return (*metadata, ("authorization", f"Bearer {key}"))


def _is_loopback(target: str) -> bool:
    address = address_of(target)
    if address is None:
        return False
    host, _ = address
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def jittered(seconds: float) -> float:
    """One to two times as long, so that callers do not retry all at once."""
    return seconds * random.uniform(1, 2)  # noqa: S311 - no secret


def after_overload(retry_after: float, attempts: int) -> float:
    """Seconds to wait after so many attempts, of which the server said `retry_after` last.

    That is how long one caller's turn takes. All that were turned away come again, so it is doubled
    with each attempt: when a worker is lost, the queue of what is left is full for seconds.
    """
    doubled = min(retry_after * 2 ** (attempts - 1), _LONGEST_PAUSE_S)
    return jittered(max(retry_after, doubled))


def after_broken(failures: int) -> float:
    """Seconds to wait after so many connections in a row that broke."""
    return jittered(_RECONNECT_BACKOFF_S * 2.0 ** (failures - 1))


class RetryBudget:
    """One call's deadline and attempts after overloads; the service config retries UNAVAILABLE."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._attempts = 0

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def pause(self, error: GuardError) -> float:
        """Seconds until the next attempt. Raises the error if there is none."""
        self._attempts += 1
        # A message that is too large has the same code, but no time to retry after.
        if isinstance(error, Overloaded) and error.retry_after and self._attempts < MAX_ATTEMPTS:
            delay = after_overload(error.retry_after, self._attempts)
            if delay < self.left:
                return delay
        raise error
