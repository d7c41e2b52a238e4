"""What one caller can take from another one: each attack beside a victim that asks one by one.

The victim's quiet figures are measured while the attacker sends the same to a sink.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    short: str  # the name, where there is little room
    certificate: bool = False  # the victim and the attacker have one each


SOURCES = {
    "another address": AttackSource("127.0.0.2", 256, "address"),
    "the same address": AttackSource("127.0.0.1", 1, "same"),
    "another certificate": AttackSource("127.0.0.1", 256, "certificate", certificate=True),
}
CAPACITY = 300.0  # of the null engine, verdicts a second
_MAX_IN_FLIGHT = 8
_BEGUN_S = 2.0  # until an attack is under way
_LEAST_S = 3.0  # that it is measured, also where all calls are answered sooner
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
    """One attack from one source: of all calls in all rounds."""

    attack: str
    source: str
    quiet: Victim
    attacked: Victim
    attackers_statuses: dict[str, int]
    p99_ratio: float
    """The attacked victim's to the quiet one's."""


@dataclass(slots=True)
class _Seen:
    """What the rounds saw so far."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    slowest_check_s: float = 0.0
    resident_mib: float = 0.0

    def victim(self) -> Victim:
        p50_s, p99_s = (_rank(sorted(self.latencies), share) for share in (0.5, 0.99))
        return Victim(dict(self.statuses), p50_s, p99_s, self.slowest_check_s, self.resident_mib)


@dataclass(frozen=True, slots=True)
class _Attacked:
    """The gateway, and what its callers connect with."""

    process: GatewayProcess
    certificates: Path | None
    victims: grpc.ChannelCredentials | None


def measure(run: GatewayRun, attacks: Sequence[str], calls: int) -> list[Outcome]:
    """Attacks from each source in turn; each pair has a gateway of its own.

    The victim makes so many calls a round, quiet and attacked, unless `run.seconds` end before.
    """
    outcomes = []
    with run.null_engine(_MAX_IN_FLIGHT, CAPACITY) as (slot, triton), _sink(run) as sink:
        for attack in attacks:
            for name, source in SOURCES.items():
                with _gateway(run, slot, triton, source) as target:
                    outcomes.append(_outcome(run, attack, name, target, sink, calls))
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


def _outcome(
    run: GatewayRun, attack: str, source: str, target: _Attacked, sink: str, calls: int
) -> Outcome:
    quiet, attacked, statuses = _Seen(), _Seen(), Counter[str]()
    for number in range(run.rounds):
        run.progress(f"round {number + 1}: {attack}, from {source}")
        with _attacking(attack, sink, source, None):
            asyncio.run(_victim(target, calls, run.seconds, quiet))
        with _attacking(attack, target.process.target, source, target.certificates) as ended:
            asyncio.run(_victim(target, calls, run.seconds, attacked))
        statuses.update(ended)
    one, other = attacked.victim(), quiet.victim()
    return Outcome(attack, source, other, one, dict(statuses), one.p99_s / other.p99_s)


async def _victim(target: _Attacked, most: int, seconds: float, seen: _Seen) -> None:
    begun = time.monotonic()
    end, soonest = begun + seconds, begun + min(seconds, _LEAST_S)
    calls, address = moderate([VICTIMS_PROMPT]), target.process.target
    async with sending(address, calls, timeout_s=_CALL_S, credentials=target.victims) as send:
        await send(0)  # connects
        watching = asyncio.create_task(_watch(target, seen))
        count = 0
        while (now := time.monotonic()) < (end if count < most else soonest):
            status = (await send(0)).status
            seen.statuses[status] += 1
            seen.latencies += [time.monotonic() - now] if status == OK else []
            count += 1
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(target: _Attacked, seen: _Seen) -> None:
    """Checks health, and reads the gateway's memory, until cancelled."""
    async with connection(target.process.target, target.victims) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            begun = time.monotonic()
            try:
                with suppress(grpc.aio.AioRpcError):
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
            finally:  # one that is not answered yet counts for as long as it waited
                slowest = max(seen.slowest_check_s, time.monotonic() - begun)
                seen.slowest_check_s = slowest
            seen.resident_mib = max(seen.resident_mib, host.rss_mib(target.process.pid))
            await asyncio.sleep(_CHECK_EACH_S)


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
