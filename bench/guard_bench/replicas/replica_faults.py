"""One of four replicas is hit at half load, five times in each way: does a caller notice?

Its recovery counts from when what was done to it is undone (another Triton is ready, the process
goes on, the network forwards) until each gateway has it ready, one of them after it was lost,
and it has answered as many of their requests as it takes at a time. A dead stub is loaded again by
a gateway, so there it counts from its death. That a replica starts slowly is meant: it has its
whole share ten seconds later.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from guard_bench.chaos.process_tree import kill_first
from guard_bench.loadgen.call import LoadCall, Send
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.recovery import Recovery
from guard_bench.replicas.replica_bench import (
    LIMIT,
    REPLICAS,
    BenchReplica,
    ReplicaBench,
    under_load,
)

_TIMES = 5
_GATEWAYS = 2
_FAULT_S = 5.0
_BACK_S = 60.0
_POLL_S = 0.1


async def faults(bench: ReplicaBench, times: int = _TIMES) -> list[ReplicaOutcome]:
    """With two gateways, which share the locks by which one of them loads a dead stub's model."""
    slot = bench.null_slot()
    locks = bench.directory / "locks"
    shutil.rmtree(locks, ignore_errors=True)  # status files of gateways that were killed
    locks.mkdir()
    async with bench.replicas(*[slot] * REPLICAS) as replicas:
        bench.follow(slot, replicas)
        async with bench.gateways(_GATEWAYS, settings={"status": str(locks)}) as send:
            return [await _fault(bench, name, send, replicas, locks, times) for name in _FAULTS]


async def _fault(
    bench: ReplicaBench,
    name: str,
    send: Send,
    replicas: list[BenchReplica],
    status: Path,
    times: int,
) -> ReplicaOutcome:
    calls, seconds = list[LoadCall](), 0.0
    back, reloaded = list[float](), 0
    for number in range(times):
        bench.progress(f"{name}, {number + 1} of {times}")
        first = number % REPLICAS
        victim, *others = replicas[first:] + replicas[:first]
        stubs = [other.stubs for other in others]
        recovery = Recovery(status, victim.target, gateways=_GATEWAYS, answers=LIMIT)
        hit = partial(_hit, _FAULTS[name], victim, recovery, back)
        made, lasted = await under_load(send, hit)
        calls, seconds = [*calls, *made], seconds + lasted
        reloaded += sum(one.stubs != then for one, then in zip(others, stubs, strict=True))
    found = {"back after s at most": max(back), "others reloaded": reloaded}
    return outcome(f"half load, {name}, {times} times", _GATEWAYS, calls, seconds, found)


async def _hit(
    inject: "_Inject", victim: BenchReplica, recovery: Recovery, back: list[float]
) -> None:
    """Adds to `back` how long it took until it was back; a minute if it was not."""
    await inject(victim)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + _BACK_S and not recovery.back():  # noqa: ASYNC110 - of files
        await asyncio.sleep(_POLL_S)
    back.append(loop.time() - begun)


_Inject = Callable[[BenchReplica], Awaitable[None]]


async def _killed(victim: BenchReplica) -> None:
    os.killpg(victim.pid, signal.SIGKILL)
    await asyncio.sleep(_FAULT_S)
    await victim.start()


async def _stopped(victim: BenchReplica) -> None:
    os.killpg(victim.pid, signal.SIGSTOP)
    await asyncio.sleep(_FAULT_S)
    os.killpg(victim.pid, signal.SIGCONT)


async def _stub_killed(victim: BenchReplica) -> None:
    kill_first(victim.stubs, signal.SIGKILL)


async def _black_hole(victim: BenchReplica) -> None:
    victim.proxy.stall()
    await asyncio.sleep(_FAULT_S)
    victim.proxy.resume()


_FAULTS = {
    "kill -9": _killed,
    "SIGSTOP": _stopped,
    "stub killed": _stub_killed,
    "black hole": _black_hole,
}
