"""One of four replicas at a fifth of the others' speed: how slow do answers get?"""

import asyncio

from guard_bench.replicas import gateway_variant
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import CAPACITY, REPLICAS, ReplicaBench, under_load

_SLOW = 0.2
_SETTLE_S = 12.0  # until no replica starts slowly
_TIMES = 5


async def slow(bench: ReplicaBench) -> list[ReplicaOutcome]:
    """Beside four equal ones, and beside the choice of the less loaded of two at random."""
    slot, slower = bench.null_slot(), bench.null_slot("slow", rate=_SLOW * CAPACITY)
    found = list[ReplicaOutcome]()
    async with bench.replicas(*[slot] * REPLICAS, slower) as replicas:
        even, mixed = replicas[:REPLICAS], replicas[1:]
        for case, tritons, policy in (
            ("four equal ones", even, ""),
            ("one at 20% speed", mixed, ""),
            ("one at 20% speed, two choices", mixed, "two choices"),
        ):
            bench.progress(case)
            bench.follow(slot, tritons)
            variant = gateway_variant.command("policy", policy) if policy else ()
            async with bench.gateways(2, variant) as send:

                async def wait() -> None:
                    await asyncio.sleep(_SETTLE_S + _TIMES * bench.seconds)

                before = [await one.answered() for one in tritons]
                calls, seconds = await under_load(send, wait)
                after = [await one.answered() for one in tritons]
            answered = [now - then for now, then in zip(after, before, strict=True)]
            settled = [call for call in calls if call.due > calls[0].due + _SETTLE_S]
            rest_s = max(1.0, seconds - _SETTLE_S)
            extra = {"of the last one, %": 100 * answered[-1] / max(1, sum(answered))}
            if found:
                p99_s = outcome("", 0, settled, rest_s).p99_s
                extra["p99 to the even set's"] = p99_s / found[0].p99_s
            found.append(outcome(f"half load, {case}", 2, settled, rest_s, extra))
    return found
