"""What is served in which way while it is hit, and by which faults."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from guard_bench.chaos.faults import STUB_S, TRITON_S, Fault, process_faults
from guard_bench.chaos.gateways import ChaosGateways
from guard_bench.chaos.hits import Over
from guard_bench.chaos.moved_clock import MovedClock
from guard_bench.chaos.process_tree import gone, kill_first
from guard_bench.chaos.server import ChaosServer
from guard_bench.chaos.small_disk import SmallDisk, small_disk
from guard_bench.targets.guard_serve import build

_HOUR_S = 3600
_FAULT_S = 10.0
_KILLS = 10
# Between two kills: a Triton that ends sooner after its start is started after a longer pause.
_WITH_LOCK_S, _WITHOUT_S = 2.0, 11.0


class Served(Protocol):
    """What calls are sent to."""

    targets: list[str]
    left_behind: set[int]
    """Processes that a killed server left."""

    async def start(self) -> None: ...

    async def until_whole(self, timeout_s: float) -> bool: ...

    def callers(self) -> dict[int, int]:
        """How many connections of callers each process has that must have some."""
        ...


@dataclass(frozen=True, slots=True)
class SetUp:
    """One way to serve."""

    name: str
    served: Served
    faults: list[Fault]
    second_slot: bool = False


def set_ups() -> list[Callable[[Path], AbstractAsyncContextManager[SetUp]]]:
    """All of them, each for a directory of its own. They start nothing yet."""
    return [_one_slot, _two_slots, _small_disk, _clock, _behind_proxy, _with_lock, _without_lock]


@asynccontextmanager
async def _one_slot(directory: Path) -> AsyncIterator[SetUp]:
    with closing(ChaosServer(directory, _slots(directory, "blue"))) as server:
        yield SetUp("one slot", server, process_faults(server))


@asynccontextmanager
async def _two_slots(directory: Path) -> AsyncIterator[SetUp]:
    with closing(ChaosServer(directory, _slots(directory, "blue", "green"))) as server:
        # Whatever happens to a supervisor: with it, all slots are gone.
        faults = process_faults(server, in_pairs=("stub", "Triton", "worker"))
        yield SetUp("two slots", server, faults, second_slot=True)


@asynccontextmanager
async def _small_disk(directory: Path) -> AsyncIterator[SetUp]:
    with (
        small_disk(directory / "state") as disk,
        closing(ChaosServer(directory, _slots(directory, "blue"), disk=disk)) as server,
    ):
        yield SetUp("one slot, a small disk", server, _disk_faults(server, disk))


def _disk_faults(server: ChaosServer, disk: SmallDisk) -> list[Fault]:
    def meanwhile(begin: Callable[[], None], end: Callable[[], None]) -> Over:
        async def inject() -> bool:
            begin()
            refused = disk.refuses()
            pid = kill_first(server.pids("worker"), signal.SIGKILL)
            await asyncio.sleep(_FAULT_S)
            end()
            return refused and gone(pid)

        return inject

    part = "run directory, and a worker killed"
    return [
        Fault("disk full", part, meanwhile(disk.fill, disk.free), STUB_S, at_once=True),
        Fault(
            "disk read-only", part, meanwhile(disk.read_only, disk.writable), STUB_S, at_once=True
        ),
    ]


@asynccontextmanager
async def _clock(directory: Path) -> AsyncIterator[SetUp]:
    clock = MovedClock(directory)
    slots = _slots(directory, "blue")
    with closing(ChaosServer(directory, slots, environment=clock.environment)) as server:
        faults = [_clock_moved(clock, part) for part in ("worker", "supervisor", "Triton", "")]
        yield SetUp("one slot", server, faults)


def _clock_moved(clock: MovedClock, part: str) -> Fault:
    async def inject() -> bool:
        for seconds in (_HOUR_S, -_HOUR_S, 0):
            clock.move(seconds, part)
            await asyncio.sleep(_FAULT_S / 2)
        return True  # that the clock of such processes moves is seen by a test

    name = "wall clock 1 h on, then 1 h back"
    return Fault(name, part or "all", inject, 1.0, at_once=True)


@asynccontextmanager
async def _behind_proxy(directory: Path) -> AsyncIterator[SetUp]:
    async with _gateways(directory, 2, shared_lock=True) as gateways:
        yield SetUp("two gateways", gateways, _network_faults(gateways))


def _network_faults(gateways: ChaosGateways) -> list[Fault]:
    async def hang() -> bool:
        before = gateways.proxy.accepted
        gateways.proxy.stall(later_ones=False)
        await asyncio.sleep(_FAULT_S)
        return gateways.proxy.accepted > before  # new ones were needed

    async def nothing_passes() -> bool:
        before = gateways.proxy.accepted
        gateways.proxy.stall()
        await asyncio.sleep(_FAULT_S)
        gateways.proxy.resume()
        return gateways.proxy.accepted > before

    part = "network to Triton"
    return [
        Fault("connections hang, new ones do not", part, hang, 5.0),
        Fault("nothing passes for 10 s", part, nothing_passes, TRITON_S),
    ]


@asynccontextmanager
async def _with_lock(directory: Path) -> AsyncIterator[SetUp]:
    async with _gateways(directory, 4, shared_lock=True) as gateways:
        fault = _killed_again_and_again(gateways, _WITH_LOCK_S)
        yield SetUp("four gateways, one lock", gateways, [fault])


@asynccontextmanager
async def _without_lock(directory: Path) -> AsyncIterator[SetUp]:
    async with _gateways(directory, 4, shared_lock=False) as gateways:
        fault = _killed_again_and_again(gateways, _WITHOUT_S)
        yield SetUp("four gateways, no lock", gateways, [fault])


def _killed_again_and_again(gateways: ChaosGateways, pause_s: float) -> Fault:
    async def inject() -> bool:
        for kill in range(1, _KILLS + 1):
            pid = kill_first(gateways.pids("stub"), signal.SIGKILL)
            await asyncio.sleep(1.0)  # until somebody has noticed
            if not gone(pid) or not await gateways.until_whole(TRITON_S):
                raise RuntimeError(f"After kill {kill} of {_KILLS} not all came back.")
            await asyncio.sleep(pause_s)
        return True

    return Fault(f"SIGKILL {_KILLS} times", "stub", inject, STUB_S, at_once=True)


@asynccontextmanager
async def _gateways(
    directory: Path, count: int, *, shared_lock: bool
) -> AsyncIterator[ChaosGateways]:
    [slot] = _slots(directory, "blue")
    gateways = ChaosGateways(directory, slot, count, shared_lock=shared_lock)
    try:
        yield gateways
    finally:
        await gateways.close()


def _slots(directory: Path, *names: str) -> list[Path]:
    """The tiny guard under these names, beside `directory`: they give the same verdicts.

    Raises CalledProcessError if it can't be built.
    """
    first = directory.parent / "blue"
    build(first, "int8")
    for name in names:
        if not (directory.parent / name).exists():
            shutil.copytree(first, directory.parent / name)
    return [directory.parent / name for name in names]
