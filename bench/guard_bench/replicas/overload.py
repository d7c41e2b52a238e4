"""Twice what one replica takes, by 1, 4 and 16 gateways that know nothing of each other."""

import asyncio

from guard_bench.loadgen.sample import quantile
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import BenchReplica, ReplicaBench, under_load
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generation
from guard_core.slot.manifest import Manifest

_LIMIT = 64
_RATE = 100.0  # as much as two cores carry with 16 gateways and the load: 600/s is simulated
_GATEWAYS = (1, 4, 16)
_SETTLE_S = 25.0  # until what many gateways sent at first, with a whole limit each, is answered
_IN_TIME_S = 2.5  # as simulated for steps of 0.6 s: a request takes 0.64 s of the engine
_TIMES = 2
_PROBES_S = 0.2


async def overload(
    bench: ReplicaBench, rate: float = _RATE, settle_s: float = _SETTLE_S
) -> list[ReplicaOutcome]:
    """What is rejected counts as failed here: half of all must be."""
    slot = bench.null_slot(rate=rate, limit=_LIMIT)
    found = list[ReplicaOutcome]()
    async with bench.replicas(slot) as [replica]:
        bench.follow(slot, [replica])
        for gateways in _GATEWAYS:
            bench.progress(f"overload by {gateways} gateways")
            waits = list[float]()

            async def wait(waits: list[float] = waits) -> None:
                await asyncio.sleep(settle_s)
                await _ask_directly(replica, _TIMES * bench.seconds, waits)

            async with bench.gateways(gateways) as send:
                calls, seconds = await under_load(send, wait, 2 * rate)
            settled = [call for call in calls if call.due > calls[0].due + 1 + settle_s]
            extra = {"engine's queue p99 s": quantile(waits, 0.99)}
            case = f"twice the load of one replica of {_LIMIT}"
            row_s = seconds - 1 - settle_s
            row = outcome(case, gateways, settled, row_s, extra)
            row.found["rate to one gateway's"] = row.rate / (found[0] if found else row).rate
            in_time = [one for one in settled if one.error == "" and one.latency_s <= _IN_TIME_S]
            row.found[f"within {_IN_TIME_S:g} s, a second"] = len(in_time) / row_s
            found.append(row)
    return found


async def _ask_directly(replica: BenchReplica, seconds: float, waits: list[float]) -> None:
    """Asks the engine itself five times a second: how long does a request wait there?"""
    engine = Manifest.load(replica.slot).engine
    question = Generation((1, 2, 3), 0, max_tokens=3, draft=(4, 5, 0))

    async def ask() -> None:
        waits.append((await client.generate(question)).queue_s or 0.0)

    async with (
        EngineClient(replica.direct, engine.triton_model) as client,
        asyncio.TaskGroup() as asking,
    ):
        for _ in range(round(seconds / _PROBES_S)):
            asking.create_task(ask())
            await asyncio.sleep(_PROBES_S)
