"""Twice what an engine of a fixed capacity can do, by calls that come at random."""

from guard_bench.loadgen.encoded_calls import moderate, stream_moderate
from guard_bench.scenarios.gateway_run import STREAMS, GatewayRun, Load
from guard_bench.scenarios.recorded_requests import drafts_of_prompts

CAPACITY = 300.0  # verdicts a second
_MAX_IN_FLIGHT = 8  # of the null engine: each verdict takes it 8 / 300 s


def measure(run: GatewayRun) -> None:
    """Adds the points at the peak, at half and at twice the capacity, and what shedding gave."""
    report = run.report
    with (
        run.null_engine(_MAX_IN_FLIGHT, CAPACITY) as (slot, triton),
        run.gateway(slot, triton) as target,
    ):
        prompts, _ = drafts_of_prompts(run, slot, triton)
        unary = Load(target, moderate(prompts))
        streams = Load(target, stream_moderate(prompts), STREAMS)
        for number in range(run.rounds):
            run.closed(number, "peak", unary, 2 * _MAX_IN_FLIGHT)
            run.open(number, "half load", unary, CAPACITY / 2)
            run.open(number, "twice the load", unary, 2 * CAPACITY)
            run.open(number, "twice the load, by streams", streams, 2 * CAPACITY)
    twice = "twice the load"
    report.ratios |= {
        "goodput at twice the load, to the peak": report.compare(twice, "peak"),
        "p99 at twice the load, to half load": report.compare(twice, "half load", "p99_s"),
        "a shed call's p50, ms": 1e3 * report.median(twice, "shed_p50_s"),
        "a shed call's p99, ms": 1e3 * report.median(twice, "shed_p99_s"),
    }
