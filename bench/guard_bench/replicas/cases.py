"""All cases of `guard bench replicas`, by name, in the order in which they run."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from guard_bench.replicas.capacity import capacity
from guard_bench.replicas.changes import by_dns, by_list, other_slot, swap
from guard_bench.replicas.chats import chats
from guard_bench.replicas.cost import cost
from guard_bench.replicas.outcome import ReplicaOutcome
from guard_bench.replicas.overload import overload
from guard_bench.replicas.replica_bench import ReplicaBench
from guard_bench.replicas.replica_faults import faults
from guard_bench.replicas.slow import slow


class Case(StrEnum):
    """What `guard bench replicas` measures."""

    capacity = "capacity"
    faults = "faults"
    list = "list"
    dns = "dns"
    swap = "swap"
    other_slot = "other-slot"
    slow = "slow"
    chats = "chats"
    overload = "overload"
    cost = "cost"


_CASES: dict[Case, Callable[[ReplicaBench], Awaitable[list[ReplicaOutcome]]]] = {
    Case.capacity: capacity,
    Case.faults: faults,
    Case.list: by_list,
    Case.dns: by_dns,
    Case.swap: swap,
    Case.other_slot: other_slot,
    Case.slow: slow,
    Case.chats: chats,
    Case.overload: overload,
    Case.cost: cost,
}


async def measure(bench: ReplicaBench, case: Case) -> list[ReplicaOutcome]:
    """Its rows of the table. Raises OSError or RuntimeError."""
    return await _CASES[case](bench)
