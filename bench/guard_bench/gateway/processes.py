"""The servers under load, each a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_READY_S = 60
_STOP_S = 15
_pids: dict[str, int] = {}


@contextmanager
def gateway(slot: Path, triton: str, log: Path, **settings: str) -> Iterator[str]:
    """Runs `python -m guard_server` before a Triton; gives its address once it is ready.

    Without a verdict cache, unless it is set.
    """
    port = _free_port()
    given = {"slot": str(slot), "triton": triton, "port": str(port), "cache_mib": "0", **settings}
    environment = {f"GUARD_{name.upper()}": value for name, value in given.items()}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "guard_server"],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    target = f"127.0.0.1:{port}"
    _pids[target] = process.pid
    try:
        _until_serving(process, target, log)
        yield target
    finally:
        _stop(process)


def pid_of(target: str) -> int:
    """The process of a gateway that runs."""
    return _pids[target]


@contextmanager
def proxy(triton: str) -> Iterator[str]:
    """Runs the bare proxy; gives its address."""
    command = [sys.executable, "-m", "guard_bench.gateway.proxy", triton]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert process.stdout is not None  # noqa: S101  (for the type checker)
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        _stop(process)


def _until_serving(process: "subprocess.Popen[bytes]", target: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while process.poll() is None and time.monotonic() < deadline:
            try:
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"The gateway did not come up; {log} says why.")


def _stop(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
