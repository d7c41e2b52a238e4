"""From the engine's confirming verdict to STOPPED at the caller."""

import time

from guard_bench.live.live_answers import FINE, growing
from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.live.scripted_engine import ScriptedEngine, scripted_engine
from guard_bench.loadgen.sample import quantile
from guard_bench.targets.null_engine import write_null_slot
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Category, Severity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import AsyncClient, request

_STOPS = 100
_UNSAFE = Verdict(Severity.UNSAFE, (Category.VIOLENT,), refusal=False)
_QUICK = pb.LiveCadence(every_tokens=16, first_tokens=8)
_MOST_MS = 10.0
_PART_S = 0.005  # between two parts


async def stops(bench: LiveBench) -> list[LiveOutcome]:
    """The second blocked beginning confirms; the engine's last answer is the whole verdict."""
    slot = bench.directory / "null"
    write_null_slot(slot, max_in_flight=32)
    found = []
    async with (
        scripted_engine(slot, _UNSAFE) as engine,
        bench.gateway(slot, engine.target) as process,
        AsyncClient(process.target, insecure=True) as client,
    ):
        for number in range(_STOPS):
            bench.progress(f"stop {number + 1} of {_STOPS}")
            found.append(await _stop_ms(client, engine, number))
    p50, p90 = quantile(found, 0.5), quantile(found, 0.9)
    return [
        LiveOutcome(
            *("stop", f"from the confirming verdict to the caller, {len(found)} stops"),
            f"under {_MOST_MS:g} ms",
            f"{p50:.1f} ms in the median, {p90:.1f} at p90",
            p50 < _MOST_MS,
        )
    ]


async def _stop_ms(client: AsyncClient, engine: ScriptedEngine, number: int) -> float:
    """Raises RuntimeError if it is not stopped."""
    start = pb.LiveStart(request=request(f"Question {number}"), cadence=_QUICK)
    async for event in client.live(start, growing(FINE, pause_s=_PART_S)):
        if event.stopped:
            return 1000 * (time.monotonic() - engine.answered_at[-1])
    raise RuntimeError("An answer of which every beginning is blocked was not stopped.")
