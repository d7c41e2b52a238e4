"""Many calls with random deadlines and cancels, and what they leave: nothing, if all is well."""

import asyncio
import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc

from guard_bench.gateway import traffic
from guard_bench.gateway.processes import gateway, pid_of

_CONVERSATIONS = 4000
_DEADLINES_S = (0.001, 0.25)
_CANCELLED = 0.3  # of the calls
_PLACES = 16  # few, so that calls wait and are shed too
_SETTLED_S = 3.0  # the gateway's gauges are renewed each second
_FLAT = 1.05  # of the memory after a fifth of the calls


class Running(Protocol):
    """A Triton that runs."""

    target: str
    metrics_url: str


@dataclass
class Soaked:
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
        flat = self.memory[-1] <= self.memory[0] * _FLAT
        left = self.in_flight, self.queued, self.in_engine, self.blocks
        return not any(left) and flat

    def lines(self) -> list[str]:
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
    run: Path,
    slot: Path,
    triton: Callable[[Path], AbstractContextManager[Running]],
    calls: int,
    in_flight: int,
    metrics_port: int,
    progress: Callable[[str], None],
) -> Soaked:
    """Runs it on the verdict cache's path too: a conversation comes again and again."""
    settings = {
        "metrics_port": str(metrics_port),
        "max_in_flight": str(_PLACES),
        "cache_mib": "1",
        "cache_ttl_s": "1",
    }
    with (
        triton(slot) as engine,
        gateway(slot, engine.target, run / "gateway.log", **settings) as target,
    ):
        soaked = asyncio.run(_calls(target, calls, in_flight, progress))
        time.sleep(_SETTLED_S)
        own = f"http://127.0.0.1:{metrics_port}/metrics"
        soaked.in_flight = _gauge(own, "guard_in_flight")
        soaked.queued = _gauge(own, "guard_queued")
        soaked.in_engine = _gauge(engine.metrics_url, "nv_trt_llm_request_metrics")
        soaked.blocks = _gauge(
            engine.metrics_url, "nv_trt_llm_kv_cache_block_metrics", 'kv_cache_block_type="used"'
        )
    return soaked


async def _calls(
    target: str, calls: int, in_flight: int, progress: Callable[[str], None]
) -> Soaked:
    soaked = Soaked()
    made = traffic.moderate(traffic.conversations(_CONVERSATIONS, (5, 60), seed=3))
    chance = random.Random(1)
    numbers = iter(range(calls))
    begun = time.monotonic()
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = channel.unary_unary(made.path)

        async def caller() -> None:
            for number in numbers:
                if number % (calls // 5) == calls // 5 - 1:
                    soaked.memory.append(_memory_mib(target))
                if number % 1000 == 0:
                    progress(f"{number} of {calls} calls")
                call = stub(made.request(number), timeout=chance.uniform(*_DEADLINES_S))
                if chance.random() < _CANCELLED:
                    await asyncio.sleep(chance.uniform(0, 0.03))
                    call.cancel()
                soaked.statuses[(await call.code()).name] += 1

        await asyncio.gather(*(caller() for _ in range(in_flight)))
    soaked.seconds = time.monotonic() - begun
    return soaked


def _memory_mib(target: str) -> float:
    pages = int(Path(f"/proc/{pid_of(target)}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _gauge(url: str, name: str, label: str = "") -> float:
    """The sum of its values. Raises RuntimeError if there is none: nothing is not zero."""
    with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own
        lines = reply.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name + "{") and label in line]
    if not found:
        raise RuntimeError(f"{url} tells no {name}. Build the slot anew: `guard build`.")
    return sum(float(line.split()[-1]) for line in found)
