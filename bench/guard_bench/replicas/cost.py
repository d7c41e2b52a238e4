"""A gateway's processor time a call with one replica, beside an older checkout's.

Both run at the same time before the same null engine and get the same calls in turn, so that what
else the machine does meets both.
"""

import os
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from guard_bench import host
from guard_bench.loadgen.call import CallResult
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import ReplicaBench, entered
from guard_bench.targets.gateway_process import gateway

_ROUNDS = 9
_IN_FLIGHT = 16


async def cost(bench: ReplicaBench, rounds: int = _ROUNDS) -> list[ReplicaOutcome]:
    """Nothing without an older checkout (`--before`)."""
    if bench.before is None:
        return []
    slot = bench.null_slot(rate=0, limit=64)
    older = _sources(bench.before)
    async with AsyncExitStack() as stack:
        [replica] = await stack.enter_async_context(bench.replicas(slot))
        contexts = [
            gateway(slot, replica.direct, bench.directory / f"{name}.log", {}, sources=sources)
            for name, sources in (("before", older), ("now", ""))
        ]
        gateways = await stack.enter_async_context(entered(*contexts))
        calls = moderate(prompts(2000, WORDS, seed=3))
        sends = [await stack.enter_async_context(sending(one.target, calls)) for one in gateways]

        async def send(number: int) -> CallResult:
            return await sends[number % 2](number)

        ratios, sample = list[float](), None
        for number in range(rounds + 1):
            bench.progress(f"processor time of a call, {number} of {rounds}")
            before = [host.cpu_seconds(one.pid) for one in gateways]
            sample = await closed_loop(send, in_flight=_IN_FLIGHT, seconds=bench.seconds)
            spent = [
                host.cpu_seconds(one.pid) - then for one, then in zip(gateways, before, strict=True)
            ]
            if number:  # the first round warms both up
                ratios.append(spent[1] / spent[0])
    assert sample is not None  # noqa: S101  (one round at least)
    found = {"processor time to before": median(ratios), "least": min(ratios), "most": max(ratios)}
    return [outcome("one replica alone", 1, sample.calls, sample.seconds, found)]


def _sources(checkout: Path) -> str:
    """Its packages that a gateway imports, before those that are installed. Raises OSError."""
    if not (checkout / "server" / "guard_server").is_dir():
        raise FileNotFoundError(f"{checkout} is no checkout of this project")
    checkout = checkout.resolve()
    return os.pathsep.join(str(checkout / part) for part in ("server", "clients/python"))
