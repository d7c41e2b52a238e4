"""A gateway before two engines, by a traffic file that a test rewrites."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_core.slot import traffic
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_server.app import serving
from guard_server.routing.router import Router
from guard_server.settings import Settings
from tests.support.gateway import AT_ONCE, Client, connect
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until

WriteSlot = Callable[..., Path]


@dataclass
class TrafficFile:
    """The file, and what is written into it by and by."""

    path: Path
    traffic: Traffic
    slots: dict[str, SlotTraffic]  # also those that are left out for the time being

    def write(
        self,
        weights: Mapping[str, int],
        shadow: ShadowTraffic | None = None,
        **slots: SlotTraffic,
    ) -> None:
        """Slots that are not named in `weights` are left out."""
        self.slots |= slots
        self.traffic = Traffic(
            generation=self.traffic.generation + 1,
            slots={
                name: self.slots[name].model_copy(update={"weight": weight})
                for name, weight in weights.items()
            },
            shadow=shadow,
        )
        traffic.save(self.traffic, self.path)


@dataclass
class Two:
    """A gateway with slots blue and green, both ready, and their engines."""

    client: Client
    router: Router
    file: TrafficFile
    blue: FakeEngine
    green: FakeEngine

    async def follow(self, weights: Mapping[str, int], **changes: Any) -> None:
        """Writes the file and waits until it is followed."""
        self.file.write(weights, **changes)
        await until(lambda: self.router.generation == self.file.traffic.generation)

    async def until_ready(self, *names: str) -> None:
        await until(lambda: all(self.router.endpoints[name].ready for name in names))


def traffic_file(directory: Path, write_slot: WriteSlot, **ports: int) -> TrafficFile:
    """Slots of the tiny guard's text side with engines at `ports`: all of the traffic is blue's."""
    slots = {
        # Another limit makes another fingerprint.
        name: SlotTraffic(
            directory=write_slot(directory / name, max_in_flight=32 + number),
            triton=f"127.0.0.1:{port}",
            weight=0 if number else 100,
        )
        for number, (name, port) in enumerate(ports.items())
    }
    file = TrafficFile(directory / "traffic.json", Traffic(generation=0, slots=slots), slots)
    traffic.save(file.traffic, file.path)
    return file


@asynccontextmanager
async def two_slots(
    directory: Path,
    write_slot: WriteSlot,
    blue: Callable[[Asked], Answer],
    green: Callable[[Asked], Answer],
    **settings: Any,
) -> AsyncIterator[Two]:
    """Without a verdict cache unless it is set."""
    settings = {"cache_mib": 0, **settings}
    async with fake_engine(blue) as one, fake_engine(green) as other:
        file = traffic_file(directory, write_slot, blue=one.port, green=other.port)
        given = Settings(traffic=file.path, port=0, **settings)
        async with serving(given, AT_ONCE) as running, connect(running.port) as client:
            two = Two(client, running.router, file, one, other)
            await two.until_ready("blue", "green")
            one.asked.clear()
            other.asked.clear()
            yield two


async def slots_of(client: Client, *contents: str, count: int, **fields: Any) -> list[str]:
    """Which slot answered each of so many calls, all at once."""
    replies = await asyncio.gather(*(client.judge(*contents, **fields) for _ in range(count)))
    return [reply.model.slot for reply in replies]
