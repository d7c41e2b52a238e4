"""Many calls with random deadlines and cancels, and what they leave: nothing, if all is well."""

import asyncio
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from guard_bench import host
from guard_bench.loadgen.closed_loop import keep_in_flight
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.synthetic_prompts import prompts
from guard_bench.targets.gateway_process import GatewayProcess, gateway
from guard_bench.targets.processes import StartTriton, free_ports

_CONVERSATIONS = 4000
_WORDS = (5, 60)
_DEADLINES_S = (0.001, 0.25)
_CANCELLED = 0.3  # of the calls
_CANCELLED_AFTER_S = (0.0, 0.03)
_MAX_IN_FLIGHT = 16  # few, so that calls wait and are shed too
_SETTLE_S = 3.0  # the gateway's gauges are renewed each second
_FLAT = 1.05  # of the memory after a fifth of the calls


@dataclass
class SoakReport:
    """What a soak left. Memory in MiB, of the gateway's process, at each fifth of the calls."""

    statuses: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    in_flight: float = 0.0
    queued: float = 0.0
    in_engine: float = 0.0
    blocks: float = 0.0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing is left, and memory did not grow."""
        flat = self.memory[-1] <= self.memory[0] * _FLAT
        left = self.in_flight, self.queued, self.in_engine, self.blocks
        return not any(left) and flat

    def lines(self) -> list[str]:
        """For people."""
        total = sum(self.statuses.values())
        statuses = ", ".join(f"{status} {number}" for status, number in self.statuses.items())
        memory = ", ".join(f"{mib:.1f}" for mib in self.memory)
        return [
            f"{total} calls in {self.seconds:.0f} s: {statuses}.",
            f"Left: {self.in_flight:g} in flight, {self.queued:g} queued; in the engine "
            f"{self.in_engine:g} requests, {self.blocks:g} blocks.",
            f"Memory at each fifth: {memory} MiB. {'Clean.' if self.clean else 'NOT clean.'}",
        ]


def soak(
    directory: Path,
    slot: Path,
    triton: StartTriton,
    *,
    calls: int,
    in_flight: int,
    progress: Callable[[str], None],
) -> SoakReport:
    """Soaks a gateway before the slot's engine; its log goes to `directory`.

    A conversation comes again and again, so the verdict cache takes part.
    """
    [metrics_port] = free_ports(1)
    settings = {
        "metrics_port": str(metrics_port),
        "max_in_flight": str(_MAX_IN_FLIGHT),
        "cache_mib": "1",
        "cache_ttl_s": "1",
    }
    with (
        triton(slot) as engine,
        gateway(slot, engine.target, directory / "gateway.log", settings) as process,
    ):
        report = asyncio.run(_load(process, calls, in_flight, progress))
        time.sleep(_SETTLE_S)
        own = f"http://127.0.0.1:{metrics_port}/metrics"
        report.in_flight = _gauge(own, "guard_in_flight")
        report.queued = _gauge(own, "guard_queued")
        report.in_engine = _gauge(engine.metrics_url, "nv_trt_llm_request_metrics")
        report.blocks = _gauge(
            engine.metrics_url, "nv_trt_llm_kv_cache_block_metrics", 'kv_cache_block_type="used"'
        )
    return report


async def _load(
    process: GatewayProcess, calls: int, in_flight: int, progress: Callable[[str], None]
) -> SoakReport:
    report = SoakReport()
    encoded = moderate(prompts(_CONVERSATIONS, _WORDS, seed=3))
    chance = random.Random(1)
    begun = time.monotonic()
    async with grpc.aio.insecure_channel(process.target) as channel:
        # A raw stub: the client's retries would hide how a call ended.
        method: Any = channel.unary_unary(encoded.path)

        async def make(number: int) -> None:
            if number % (calls // 5) == calls // 5 - 1:
                report.memory.append(host.rss_mib(process.pid))
            if number % 1000 == 0:
                progress(f"{number} of {calls} calls")
            call = method(encoded.request(number), timeout=chance.uniform(*_DEADLINES_S))
            if chance.random() < _CANCELLED:
                await asyncio.sleep(chance.uniform(*_CANCELLED_AFTER_S))
                call.cancel()
            report.statuses[(await call.code()).name] += 1

        await keep_in_flight(make, range(calls), in_flight)
    report.seconds = time.monotonic() - begun
    return report


def _gauge(url: str, name: str, label: str = "") -> float:
    """The sum of its values. Raises RuntimeError if there is none: nothing is not zero."""
    with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own
        lines = reply.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name + "{") and label in line]
    if not found:
        raise RuntimeError(f"{url} has no {name}. Build the slot again: `guard build`.")
    return sum(float(line.split()[-1]) for line in found)
