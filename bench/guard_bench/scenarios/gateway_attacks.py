"""What one caller can take from another one: each attack beside a victim that asks one by one.

The victim's quiet figures are measured while the attacker sends the same to a sink.
"""

import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_bench import host
from guard_bench.loadgen.attack import ATTACKER, VICTIMS_PROMPT
from guard_bench.loadgen.call import OK
from guard_bench.loadgen.callers_tls import credentials, issue
from guard_bench.loadgen.connections import connection, sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_bench.targets.gateway_process import GatewayProcess, gateway
from guard_bench.targets.processes import free_ports, running


@dataclass(frozen=True, slots=True)
class AttackSource:
    """Where an attack comes from. The victim is at 127.0.0.1."""

    address: str
    connections: int  # at most
    certificate: bool = False  # the victim and the attacker have one each


SOURCES = {
    "another address": AttackSource("127.0.0.2", 256),
    "the same address": AttackSource("127.0.0.1", 1),
    "another certificate": AttackSource("127.0.0.1", 256, certificate=True),
}
CAPACITY = 300.0  # of the null engine, verdicts a second
_MAX_IN_FLIGHT = 8
_BEGUN_S = 2.0  # until an attack is under way
_CHECK_EACH_S = 0.05
_CALL_S = 10.0  # the victim's deadline
_VICTIM = "victim"


@dataclass(frozen=True, slots=True)
class Victim:
    """What a caller got that asks one by one, and what showed of the gateway meanwhile."""

    statuses: dict[str, int]
    p50_s: float
    p99_s: float
    slowest_check_s: float
    """Of the health checks, of which one begins 50 ms after the one before."""
    resident_mib: float
    """The gateway's memory at most."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack from one source; each figure is the median of the rounds, or the worst."""

    attack: str
    source: str
    quiet: Victim
    attacked: Victim
    attackers_statuses: dict[str, int]
    p99_ratio: float
    """The attacked victim's to the quiet one's, in the same round."""


@dataclass(frozen=True, slots=True)
class _Attacked:
    """The gateway, and what its callers connect with."""

    process: GatewayProcess
    certificates: Path | None
    victims: grpc.ChannelCredentials | None


def measure(run: GatewayRun, attacks: Sequence[str]) -> list[Outcome]:
    """Attacks from each source in turn; each pair has a gateway of its own."""
    outcomes = []
    with run.null_engine(_MAX_IN_FLIGHT, CAPACITY) as (slot, triton), _sink(run) as sink:
        for attack in attacks:
            for name, source in SOURCES.items():
                with _gateway(run, slot, triton, source) as target:
                    outcomes.append(_outcome(run, attack, name, target, sink))
    return outcomes


@contextmanager
def _gateway(run: GatewayRun, slot: Path, triton: str, source: AttackSource) -> Iterator[_Attacked]:
    # The cache keeps nothing: so the victim meets others' calls in flight.
    settings = {"cache_mib": "64", "cache_ttl_s": "0.001"}
    log, certificates = run.directory / "gateway.log", run.directory / "certificates"
    if not source.certificate:
        with gateway(slot, triton, log, settings) as process:
            yield _Attacked(process, None, None)
        return
    settings |= issue(certificates, [_VICTIM, ATTACKER])
    victims = credentials(certificates, _VICTIM)
    with gateway(slot, triton, log, settings, victims) as process:
        yield _Attacked(process, certificates, victims)


def _outcome(run: GatewayRun, attack: str, source: str, target: _Attacked, sink: str) -> Outcome:
    quiet, attacked, statuses = [], [], Counter[str]()
    for number in range(run.rounds):
        run.progress(f"round {number + 1}: {attack}, from {source}")
        with _attacking(attack, sink, source, None):
            quiet.append(asyncio.run(_victim(target, run.seconds)))
        with _attacking(attack, target.process.target, source, target.certificates) as ended:
            attacked.append(asyncio.run(_victim(target, run.seconds)))
        statuses.update(ended)
    pairs = zip(attacked, quiet, strict=True)
    ratio = statistics.median(one.p99_s / other.p99_s for one, other in pairs)
    return Outcome(attack, source, _all(quiet), _all(attacked), dict(statuses), ratio)


async def _victim(target: _Attacked, seconds: float) -> Victim:
    statuses, latencies = Counter[str](), list[float]()
    end = time.monotonic() + seconds
    calls, address = moderate([VICTIMS_PROMPT]), target.process.target
    async with sending(address, calls, timeout_s=_CALL_S, credentials=target.victims) as send:
        await send(0)  # connects
        watching = asyncio.create_task(_watch(target, end))
        while time.monotonic() < end:
            begun = time.monotonic()
            status = (await send(0)).status
            statuses[status] += 1
            latencies += [time.monotonic() - begun] if status == OK else []
    latencies.sort()
    p50_s, p99_s = (_rank(latencies, share) for share in (0.5, 0.99))
    return Victim(dict(statuses), p50_s, p99_s, *await watching)


async def _watch(target: _Attacked, end: float) -> tuple[float, float]:
    """The slowest health check in seconds, and the gateway's memory at most in MiB."""
    slowest = resident = 0.0
    async with connection(target.process.target, target.victims) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < end:
            begun = time.monotonic()
            with suppress(grpc.aio.AioRpcError):
                await health.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
            slowest = max(slowest, time.monotonic() - begun)
            resident = max(resident, host.rss_mib(target.process.pid))
            await asyncio.sleep(_CHECK_EACH_S)
    return slowest, resident


def _all(rounds: Sequence[Victim]) -> Victim:
    statuses = Counter[str]()
    for one in rounds:
        statuses.update(one.statuses)
    return Victim(
        dict(statuses),
        statistics.median(one.p50_s for one in rounds),
        statistics.median(one.p99_s for one in rounds),
        max(one.slowest_check_s for one in rounds),
        max(one.resident_mib for one in rounds),
    )


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.inf


@contextmanager
def _attacking(
    name: str, target: str, source: str, certificates: Path | None
) -> Iterator[dict[str, int]]:
    """The attack runs while the block does; after it, how its calls ended is known."""
    command = [sys.executable, "-m", "guard_bench.loadgen.attack"]
    arguments = [name, target, SOURCES[source].address, str(SOURCES[source].connections)]
    arguments += [str(certificates)] if certificates else []
    statuses: dict[str, int] = {}
    with subprocess.Popen(  # noqa: S603 - our own command
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101  (for the type checker)
        process.stdout.readline()  # it begins
        time.sleep(_BEGUN_S)
        try:
            yield statuses
        finally:
            output, _ = process.communicate()
            with suppress(ValueError):  # it was ended with us
                statuses.update(json.loads(output))


@contextmanager
def _sink(run: GatewayRun) -> Iterator[str]:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "guard_bench.targets.sink", str(port)]
    with running(command, run.directory / "sink.log"):
        yield f"127.0.0.1:{port}"
