"""The gateway before an engine that costs nothing, beside a bare proxy and Triton itself."""

from guard_bench.loadgen.encoded_calls import (
    INFER,
    PROXY,
    STREAM_PROXY,
    infer,
    moderate,
    stream_moderate,
)
from guard_bench.scenarios.gateway_run import IN_FLIGHT, STREAMS, GatewayRun, Load
from guard_bench.scenarios.recorded_requests import drafts_of_prompts
from guard_bench.targets.null_engine import MODEL
from guard_bench.targets.proxy import proxy

MAX_IN_FLIGHT = 64  # of the null engine


def measure(run: GatewayRun) -> None:
    """Adds the points by unary calls, by streams and with one in flight, and their ratios."""
    with (
        run.null_engine(MAX_IN_FLIGHT) as (slot, triton),
        run.gateway(slot, triton) as target,
        proxy(triton) as bare,
    ):
        prompts, drafts = drafts_of_prompts(run, slot, triton)
        unary = Load(target, moderate(prompts))
        proxied = Load(bare, infer(MODEL, drafts, PROXY))
        direct = infer(MODEL, drafts, INFER)
        points = {
            "proxy, unary": (proxied, IN_FLIGHT),
            "gateway, unary": (unary, IN_FLIGHT),
            "proxy, streams": (Load(bare, infer(MODEL, drafts, STREAM_PROXY), STREAMS), IN_FLIGHT),
            "gateway, streams": (Load(target, stream_moderate(prompts), STREAMS), IN_FLIGHT),
            "Triton, streams": (Load(triton, direct, STREAMS), IN_FLIGHT),
            "Triton, one in flight": (Load(triton, direct), 1),
            "proxy, one in flight": (proxied, 1),
            "gateway, one in flight": (unary, 1),
        }
        for number in range(run.rounds):
            for name, (load, in_flight) in points.items():
                run.closed(number, name, load, in_flight)
    report = run.report
    p50_ms = {
        name: 1e3 * report.median(f"{name}, one in flight", "p50_s")
        for name in ("gateway", "Triton", "proxy")
    }
    report.ratios |= {
        "unary, to the proxy": report.compare("gateway, unary", "proxy, unary"),
        "streams, to the proxy": report.compare("gateway, streams", "proxy, streams"),
        "added p50 over Triton, ms": p50_ms["gateway"] - p50_ms["Triton"],
        "added p50 over the proxy, ms": p50_ms["gateway"] - p50_ms["proxy"],
    }
