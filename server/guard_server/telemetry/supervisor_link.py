"""The socket between a gateway worker and its supervisor: heartbeats, and metrics on demand.

It is no file: neither a full disk nor a moved clock makes a worker look dead.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from guard_server.telemetry import metric_sums
from guard_server.telemetry.metric_sums import Family

_BEAT = b"b"
_METRICS = b"m"  # alone it asks for them, before their encoding it is the answer
_BEAT_S = 0.25
_LONGEST = 2**20  # bytes of a message

_log = structlog.get_logger(__name__)


class SupervisorLink:
    """The worker's end."""

    def __init__(self, descriptor: int, metrics: CollectorRegistry | None) -> None:
        """`descriptor`: of a connected SOCK_SEQPACKET socket, which this object owns."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._socket.setblocking(False)
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._answer)
        try:
            while True:
                self._send(_BEAT)
                await asyncio.sleep(_BEAT_S)
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _answer(self) -> None:
        asked = b""
        with contextlib.suppress(OSError):
            asked = self._socket.recv(1)
        if not asked:  # the supervisor is gone; this process is about to be stopped
            asyncio.get_running_loop().remove_reader(self._socket)
        elif self._metrics is not None:
            self._send(_METRICS + metric_sums.encode(self._metrics))

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except BlockingIOError:
            pass  # the supervisor does not run at the moment
        except OSError as error:
            if message != _BEAT:
                _log.error("metrics not sent", reason=str(error))


class WorkerLink:
    """The supervisor's end. From `open` to `close` the event loop reads what the worker sends."""

    def __init__(self) -> None:
        self._ours, self.workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self.began = False  # whether a heartbeat came, ever
        self._silent_s = 0.0
        self.families: Sequence[Family] = ()  # the metrics that came last
        self._answered = asyncio.Event()

    def open(self) -> Self:
        """The worker has its end: this process closes its copy."""
        self.workers_end.close()
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    def close(self) -> None:
        """May be repeated."""
        if self._ours.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._ours)
            self._ours.close()
        self.workers_end.close()

    def silent_s(self, passed_s: float) -> float:
        """Seconds since the last heartbeat; `passed_s` of them since this was called last."""
        self._silent_s += passed_s
        return self._silent_s

    async def metrics(self, timeout_s: float) -> Sequence[Family]:
        """The worker's metrics; those that came last if it does not answer in time."""
        self._answered.clear()
        try:
            self._ours.send(_METRICS)
            async with asyncio.timeout(timeout_s):
                await self._answered.wait()
        except OSError:  # TimeoutError is one
            pass
        return self.families

    def _read(self) -> None:
        try:
            message = self._ours.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:  # the worker has ended
            asyncio.get_running_loop().remove_reader(self._ours)
        elif message == _BEAT:
            self.began, self._silent_s = True, 0.0
        else:
            self.families = metric_sums.decode(message.removeprefix(_METRICS))
            self._answered.set()
