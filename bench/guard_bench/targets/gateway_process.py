"""A gateway in a process of its own, before a Triton."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_bench.targets.processes import free_ports, running

_READY_S = 60
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway that runs."""

    target: str
    """Its gRPC address."""
    pid: int


def gateway(
    slot: Path,
    triton: str,
    log: Path,
    settings: Mapping[str, str],
    credentials: grpc.ChannelCredentials | None = None,
    *,
    sources: str = "",
) -> AbstractContextManager[GatewayProcess]:
    """Runs `python -m guard_server` until it is serving, with TLS if that needs `credentials`.

    Without a verdict cache, unless `settings` (its GUARD_* variables in lower case) has one.
    `sources`: PYTHONPATH. Raises RuntimeError, which names its log, if it does not come up.
    """
    given = {"slot": str(slot), "triton": triton, **settings}
    return _running(given, log, credentials, sources=sources)


def following(
    traffic: Path, log: Path, settings: Mapping[str, str], command: Sequence[str] = ()
) -> AbstractContextManager[GatewayProcess]:
    """The same for the slots of a traffic.json; by another `command`, if one is given."""
    return _running({"traffic": str(traffic), **settings}, log, None, command)


@contextmanager
def _running(
    settings: Mapping[str, str],
    log: Path,
    credentials: grpc.ChannelCredentials | None,
    command: Sequence[str] = (),
    sources: str = "",
) -> Iterator[GatewayProcess]:
    [port] = free_ports(1)
    given = {"port": str(port), "cache_mib": "0", **settings}
    environment = {f"GUARD_{name.upper()}": text for name, text in given.items()}
    if sources:
        environment["PYTHONPATH"] = sources
    words = command or [sys.executable, "-m", "guard_server"]
    with running(words, log, environment) as process:
        target = f"127.0.0.1:{port}"
        deadline = time.monotonic() + _READY_S
        while not serving(target, credentials):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The gateway did not come up. See {log}.")
            time.sleep(_POLL_S)
        yield GatewayProcess(target, process.pid)


def serving(target: str, credentials: grpc.ChannelCredentials | None = None) -> bool:
    """Whether the gateway there says so within a second, over a connection of its own."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    opened = (
        grpc.secure_channel(target, credentials, options)
        if credentials
        else grpc.insecure_channel(target, options)
    )
    with opened as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
