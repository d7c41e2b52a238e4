"""Asks all of a fleet's gateways for their status, again and again.

Nothing here is an error: a gateway that does not answer is one that does not report.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from guard_control.gateways.fleet_file import GatewayDns, GatewayList, OperatorTls
from guard_core.engine.addresses import addresses
from guard_server.gateway_status.status_messages import from_message
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.telemetry.worker_status import WorkerStatus
from qwen3guard.v1 import gateway_status_pb2 as pb
from qwen3guard.v1 import gateway_status_pb2_grpc

_PERIOD_S = 0.2
_ANSWER_S = 2.0
_STALE_S = 3.0  # an answer that is older says nothing of the gateway any more
_NAME_S = 5.0
_FIRST_S = 10.0
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # A gateway that comes back is found at once.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """What one gateway said last, if that is not long ago."""

    address: str
    problem: str  # why it does not report; "" if it does
    reply: pb.GetStatusResponse = field(default_factory=pb.GetStatusResponse)
    workers: tuple[WorkerStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetAnswers:
    """What all gateways said last. `unknown`: why some may not be known, or ""."""

    gateways: tuple[GatewayAnswer, ...]
    unknown: str

    @property
    def workers(self) -> WorkerSnapshot:
        """Of all gateways together; one that does not report stands by its address."""
        # Gateways that share a directory of status files answer for each other: each once.
        found = {each.key: each for one in self.gateways for each in one.workers}
        silent = {one.address for one in self.gateways if not one.workers}
        if self.unknown:
            silent.add(self.unknown)
        return WorkerSnapshot(frozenset(found) | silent, tuple(found.values()))


class _Watched:
    """One gateway."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._channel = channel
        self._stub: Any = gateway_status_pb2_grpc.GatewayStatusServiceStub(channel)
        self._last = GatewayAnswer(address, "has not answered yet")
        self._at = time.monotonic()
        self.asked = asyncio.Event()  # it has answered, or failed to, once
        self._task = asyncio.create_task(self._ask())

    def answer(self) -> GatewayAnswer:
        if time.monotonic() - self._at > _STALE_S and not self._last.problem:
            return GatewayAnswer(self.address, f"has not answered for {_STALE_S:g} s")
        return self._last

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _ask(self) -> None:
        while True:
            found = await self._answer()
            # One that is slow for a moment still counts with what it said a moment ago.
            if found.workers or self._last.problem or time.monotonic() - self._at > _STALE_S:
                self._last, self._at = found, time.monotonic()
            self.asked.set()
            await asyncio.sleep(_PERIOD_S)

    async def _answer(self) -> GatewayAnswer:
        try:
            reply = await self._stub.GetStatus(pb.GetStatusRequest(), timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            return GatewayAnswer(self.address, f"does not answer: {reason}")
        try:
            workers = tuple(from_message(worker) for worker in reply.workers)
        except ValueError:
            problem = f"is of version {reply.version}, whose status this one can't read"
            return GatewayAnswer(self.address, problem, reply)
        return GatewayAnswer(self.address, "" if workers else "reports no process", reply, workers)


class GatewayWatch:
    """All gateways of a fleet, while `watching`."""

    def __init__(self, credentials: grpc.ChannelCredentials, verified_name: str) -> None:
        """TLS verifies `verified_name`, or each gateway's address if that is empty."""
        self._credentials = credentials
        self._options: list[tuple[str, int | str]] = [*_OPTIONS]
        if verified_name:
            self._options.append(("grpc.ssl_target_name_override", verified_name))
        self._watched: dict[str, _Watched] = {}
        self._unknown = ""

    def answers(self) -> FleetAnswers:
        return FleetAnswers(
            tuple(self._watched[address].answer() for address in sorted(self._watched)),
            self._unknown,
        )

    async def use(self, wanted: frozenset[str]) -> None:
        """These are the gateways from now on, by address."""
        for address in wanted - set(self._watched):
            channel = grpc.aio.secure_channel(address, self._credentials, self._options)
            self._watched[address] = _Watched(address, channel)
        gone = [self._watched.pop(address) for address in set(self._watched) - wanted]
        await asyncio.gather(*(one.close() for one in gone))

    async def follow_name(self, name: str) -> None:
        """Uses the addresses of a name, until cancelled. While it is not known, the last stay."""
        while True:
            await self.ask_name(name)
            await asyncio.sleep(_NAME_S)

    async def ask_name(self, name: str) -> None:
        """Uses the addresses that a name, HOST:PORT, has now."""
        port = name.rpartition(":")[2]
        try:
            hosts = await addresses(name)
        except OSError as error:
            self._unknown = f"{name} is not known: {error.strerror}"
            return
        self._unknown = ""
        await self.use(
            frozenset(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts)
        )

    async def until_asked(self) -> None:
        """Returns when every gateway has answered or failed to; after ten seconds anyway."""
        waiting = [asyncio.create_task(one.asked.wait()) for one in self._watched.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=_FIRST_S)
            for task in late:
                task.cancel()


@asynccontextmanager
async def watching(
    gateways: GatewayList | GatewayDns, tls: OperatorTls
) -> AsyncIterator[GatewayWatch]:
    """Watches them while the block runs; each was asked once when it begins.

    Raises OSError if a file of `tls` can't be read.
    """
    files: Mapping[str, bytes] = {name: path.read_bytes() for name, path in tls}
    credentials = grpc.ssl_channel_credentials(files["ca"], files["key"], files["cert"])
    name = gateways.dns if isinstance(gateways, GatewayDns) else ""
    watch = GatewayWatch(credentials, name.rpartition(":")[0])
    following = None
    try:
        if isinstance(gateways, GatewayDns):
            await watch.ask_name(name)
            following = asyncio.create_task(watch.follow_name(name))
        else:
            await watch.use(frozenset(gateways.list))
        await watch.until_asked()
        yield watch
    finally:
        if following is not None:
            following.cancel()
        await watch.use(frozenset())
