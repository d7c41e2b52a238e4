"""One replica and four: is all of their capacity used, and evenly?"""

from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import LIMIT, REPLICAS, BenchReplica, ReplicaBench

_GATEWAYS = (1, 4, 8)


async def capacity(bench: ReplicaBench) -> list[ReplicaOutcome]:
    """With as much in flight as keeps every engine busy."""
    slot = bench.null_slot()
    async with bench.replicas(*[slot] * REPLICAS) as replicas:
        bench.follow(slot, replicas[:1])
        found = [await _busy(bench, "one replica", 1, replicas[:1], 0)]
        bench.follow(slot, replicas)
        for gateways in _GATEWAYS:
            found.append(await _busy(bench, "four replicas", gateways, replicas, found[0].rate))
    return found


async def _busy(
    bench: ReplicaBench, case: str, gateways: int, replicas: list[BenchReplica], one: float
) -> ReplicaOutcome:
    bench.progress(f"{case}, {gateways} gateways")
    async with bench.gateways(gateways) as send:
        before = [await replica.answered() for replica in replicas]
        in_flight = round(1.1 * LIMIT * len(replicas))  # so that no engine is ever idle
        sample = await closed_loop(send, in_flight=in_flight, seconds=bench.seconds, warm_up_s=1)
        after = [await replica.answered() for replica in replicas]
    answered = [now - then for now, then in zip(after, before, strict=True)]
    found = {}
    if one:
        found = {
            "rate to one replica's": sample.rate / one,
            "busiest to mean": max(answered) * len(answered) / max(1, sum(answered)),
        }
    return outcome(case, gateways, sample.calls, sample.seconds, found)
