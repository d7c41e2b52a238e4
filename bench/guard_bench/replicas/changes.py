"""Replicas come and go, by list and by DNS, and slots too: does a call fail?"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from guard_bench.loadgen.call import Send
from guard_bench.replicas import gateway_variant
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import (
    CAPACITY,
    HALF_LOAD,
    REPLICAS,
    BenchReplica,
    ReplicaBench,
    under_load,
)
from guard_core.slot.traffic import TritonDns

_CHANGES = 50
_CALLS = 10_000
_BY_DNS_S = 5.5  # a name is asked every five seconds
_HOSTS = [f"127.0.0.{number}" for number in range(2, 2 + REPLICAS)]
_SET = 3
_STEPS = (5, 25, 50, 75, 100)
_STEP_S = 5.0
_GATEWAYS = 2


async def by_list(bench: ReplicaBench, changes: int = _CHANGES) -> list[ReplicaOutcome]:
    """Each time without another one of the four, or with all: 10,000 calls in all changes."""
    slot = bench.null_slot()
    async with bench.replicas(*[slot] * REPLICAS) as replicas:
        bench.follow(slot, replicas)
        async with bench.gateways(_GATEWAYS) as send:

            async def apply(left: list[BenchReplica]) -> None:
                bench.follow(slot, left)

            seconds = _CALLS / HALF_LOAD / _CHANGES
            return [await _changing(bench, "list", send, replicas, apply, changes, seconds)]


async def by_dns(bench: ReplicaBench, changes: int = _CHANGES) -> list[ReplicaOutcome]:
    """The same by a name, whose addresses are those of a file instead of the resolver's."""
    slot, names = bench.null_slot(), bench.directory / "names"
    async with bench.replicas(*[slot] * REPLICAS, hosts=_HOSTS) as replicas:

        async def apply(left: list[BenchReplica]) -> None:
            new = names.with_suffix(".new")
            new.write_text("\n".join(one.proxy.host for one in left))
            new.replace(names)

        await apply(replicas)
        bench.follow(slot, TritonDns(dns=f"{gateway_variant.NAME}:{replicas[0].proxy.port}"))
        async with bench.gateways(_GATEWAYS, gateway_variant.command("names", str(names))) as send:
            return [await _changing(bench, "DNS", send, replicas, apply, changes, _BY_DNS_S)]


async def _changing(
    bench: ReplicaBench,
    kind: str,
    send: Send,
    replicas: list[BenchReplica],
    apply: Callable[[list[BenchReplica]], Awaitable[None]],
    changes: int,
    seconds: float,
) -> ReplicaOutcome:
    before = [await one.answered() for one in replicas]

    async def change() -> None:
        for number in range(changes):
            bench.progress(f"change {number + 1} of {changes} by {kind}")
            gone = number % (REPLICAS + 1)
            await apply([one for index, one in enumerate(replicas) if index != gone])
            await asyncio.sleep(seconds)

    calls, lasted = await under_load(send, change)
    after = [await one.answered() for one in replicas]
    least = min(now - then for now, then in zip(after, before, strict=True))
    found = {"answered by each, at least": least, "taken in, at least": _taken_in(bench)}
    return outcome(f"half load, {changes} changes by {kind}", _GATEWAYS, calls, lasted, found)


def _taken_in(bench: ReplicaBench) -> int:
    """How often a gateway took a replica in, the least of the two: one that follows no change
    fails no call either, and asks all of them alike.
    """
    logs = (bench.directory / f"gateway-{number}.log" for number in range(_GATEWAYS))
    return min(log.read_text().count("replica ready") for log in logs)


async def swap(bench: ReplicaBench, step_s: float = _STEP_S) -> list[ReplicaOutcome]:
    """From a set of three to another one, step by step; one of the new set is killed at half."""
    blue, green = bench.null_slot("blue"), bench.null_slot("green")
    async with bench.replicas(*[blue] * _SET, *[green] * _SET) as replicas:
        sets = replicas[:_SET], replicas[_SET:]

        def weigh(percent: int) -> None:
            bench.progress(f"a swap, {percent}%")
            bench.follow_slots(
                {"blue": (blue, sets[0], 100 - percent), "green": (green, sets[1], percent)}
            )

        async def steps() -> None:
            for percent in _STEPS:
                weigh(percent)
                await asyncio.sleep(step_s / 2)
                if percent == 50:
                    os.killpg(sets[1][0].pid, signal.SIGKILL)
                await asyncio.sleep(step_s / 2)

        weigh(0)
        async with bench.gateways(_GATEWAYS) as send:
            calls, seconds = await under_load(send, steps, HALF_LOAD * _SET / REPLICAS)
    last = [call.slot for call in calls if call.due > calls[-1].due - step_s / 2]
    found = {"by the new set at the end, %": 100 * last.count("green") / len(last)}
    case = "half load, a swap of sets of 3, one killed"
    return [outcome(case, _GATEWAYS, calls, seconds, found)]


async def other_slot(bench: ReplicaBench) -> list[ReplicaOutcome]:
    """One of two serves files of another fingerprint, as in a half-rolled Deployment."""
    slot, other = bench.null_slot(), bench.null_slot("other", limit=2)
    async with bench.replicas(slot, other) as replicas:
        bench.follow(slot, replicas)
        async with bench.gateways(_GATEWAYS) as send:

            async def wait() -> None:
                await asyncio.sleep(bench.seconds)

            calls, seconds = await under_load(send, wait, CAPACITY / 2)
        asked = {"asked of the other": float(await replicas[1].answered())}
    return [
        outcome("half load, one of two with another fingerprint", _GATEWAYS, calls, seconds, asked)
    ]
