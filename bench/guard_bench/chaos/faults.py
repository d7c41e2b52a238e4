"""Which faults there are of a server's processes, and how soon there have to be verdicts again."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from guard_bench.chaos.hits import (
    Over,
    memory_deleted,
    run_files_deleted,
    signalled,
    stopped,
    supervisor_starved,
    together,
    unloaded,
    workers_starved,
)
from guard_bench.chaos.server import ChaosServer

STUB_S, TRITON_S, SUPERVISOR_S = 10.0, 30.0, 30.0
_LIMITS = {"stub": STUB_S, "Triton": TRITON_S, "worker": STUB_S, "supervisor": SUPERVISOR_S}
_STOPS_S = (10, 120)
_KILL, _TERM = signal.SIGKILL, signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` returns when the fault is over, and only its consequences are left.

    It says whether its effect was seen, and raises RuntimeError if something else was amiss.
    """

    name: str
    part: str
    """One process or two of: stub, Triton, worker, supervisor; or what else is hit."""
    inject: Over
    back_s: float
    """The longest time without a verdict where there is one slot."""
    short: bool = False
    """Whether the short form has it too."""
    at_once: bool = False
    """To save time: callers with retries and without are there at the same time."""

    @property
    def parts(self) -> set[str]:
        return set(self.part.split(" and "))


def process_faults(server: ChaosServer, in_pairs: Sequence[str] = tuple(_LIMITS)) -> list[Fault]:
    """Every process alone and in pairs, and the files that it needs.

    `in_pairs`: the parts of pairs in which one is not killed.
    """
    return [*_alone(server), *_pairs(server, in_pairs), *_files(server)]


def _alone(server: ChaosServer) -> list[Fault]:
    found = []
    for part, back_s in _LIMITS.items():
        kill = together(signalled(server, part, _KILL))
        found.append(Fault("SIGKILL", part, kill, back_s, short=True))
        name = "SIGTERM, which it ignores" if part == "stub" else "SIGTERM"
        term = together(signalled(server, part, _TERM))
        found.append(Fault(name, part, term, back_s, at_once=True))
        for seconds in _STOPS_S:
            stop = together(stopped(server, part, seconds))
            found.append(Fault(f"SIGSTOP {seconds} s", part, stop, back_s, at_once=True))
    unload = together(unloaded(server))
    found.append(Fault("model unloaded", "Triton", unload, TRITON_S, at_once=True))
    return found


def _pairs(server: ChaosServer, parts: Sequence[str]) -> list[Fault]:
    """Two kills; and a kill with each other fault, but for one that does nothing."""
    found = []
    for one, other in combinations(_LIMITS, 2):
        both = [signalled(server, part, _KILL) for part in (one, other)]
        found.append(_pair("SIGKILL", one, other, together(*both)))
    for one, other in permutations(parts, 2):
        kill = signalled(server, other, _KILL)
        stop, term = stopped(server, one, _STOPS_S[0]), signalled(server, one, _TERM)
        name = f"SIGSTOP {_STOPS_S[0]} s and SIGKILL"
        found.append(_pair(name, one, other, together(stop, kill)))
        if one != "stub":  # it ignores the other signal
            # A supervisor is the last: what else is hit must still be there.
            hits = (kill, term) if one == "supervisor" else (term, kill)
            found.append(_pair("SIGTERM and SIGKILL", one, other, together(*hits)))
        if one == "Triton":
            hits = (unloaded(server), kill) if other == "supervisor" else (kill, unloaded(server))
            found.append(_pair("model unloaded and SIGKILL", one, other, together(*hits)))
    return found


def _pair(name: str, one: str, other: str, inject: Over) -> Fault:
    limit_s = max(_LIMITS[one], _LIMITS[other])
    return Fault(name, f"{one} and {other}", inject, limit_s, at_once=True)


def _files(server: ChaosServer) -> list[Fault]:
    starved = "no file descriptor left for 10 s"
    of_supervisor = "supervisor, and a worker killed"
    return [
        Fault("files deleted", "run directory", run_files_deleted(server), 1.0, at_once=True),
        Fault("files deleted", "memory", memory_deleted(server), TRITON_S, at_once=True),
        Fault(starved, "workers, and new callers", workers_starved(server), 1.0, at_once=True),
        Fault(starved, of_supervisor, supervisor_starved(server), STUB_S, at_once=True),
    ]
