"""A gateway before a slot of several replicas, each with a fake engine."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import SlotTraffic, Traffic, TritonList
from guard_server.app import serving
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.replica import Replica
from guard_server.settings import Settings
from tests.support.gateway import AT_ONCE, Client, connect
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until

WriteSlot = Callable[..., Path]


@dataclass
class Several:
    """A gateway whose one slot, blue, has some of `engines` as replicas."""

    client: Client
    endpoint: Endpoint
    engines: list[FakeEngine]
    path: Path
    slot: Path
    generation: int = 0

    def write(self, *engines: FakeEngine) -> None:
        """These are the slot's replicas from now on."""
        self.generation += 1
        traffic.save(listed(self.slot, engines, self.generation), self.path)

    def replica(self, engine: FakeEngine) -> Replica:
        return self.endpoint.replicas.replicas[address(engine)]

    async def until_ready(self, *engines: FakeEngine) -> None:
        names = {address(engine) for engine in engines}
        await until(lambda: {one.triton for one in self.endpoint.replicas.ready} == names)


def address(engine: FakeEngine) -> str:
    return f"127.0.0.1:{engine.port}"


def listed(slot: Path, engines: Sequence[FakeEngine], generation: int) -> Traffic:
    entry = SlotTraffic(
        directory=slot, triton=TritonList(list=tuple(map(address, engines))), weight=100
    )
    return Traffic.of(generation, {"blue": entry})


@asynccontextmanager
async def several(
    directory: Path,
    write_slot: WriteSlot,
    answer: Callable[[Asked], Answer],
    count: int = 3,
    **settings: Any,
) -> AsyncIterator[Several]:
    """All of them are ready, and were asked nothing but their warm-up. No verdict cache."""
    slot = write_slot(directory, max_in_flight=32)
    fingerprint = Manifest.load(slot).served_fingerprint
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(fake_engine(answer)) for _ in range(count)]
        for engine in engines:
            engine.fingerprint = fingerprint
        path = directory / "traffic.json"
        traffic.save(listed(slot, engines, 0), path)
        given = Settings(**{"traffic": path, "port": 0, "cache_mib": 0, **settings})
        running = await stack.enter_async_context(serving(given, AT_ONCE))
        client = await stack.enter_async_context(connect(running.port))
        found = Several(client, running.router.endpoints["blue"], engines, path, slot)
        await found.until_ready(*engines)
        for engine in engines:
            engine.asked.clear()
        yield found
