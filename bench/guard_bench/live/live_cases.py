"""All cases of `guard bench live`, by name, in the order in which they run."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from guard_bench.live.beside import beside
from guard_bench.live.finals import finals
from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_cost import cost
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.live.moves import moves
from guard_bench.live.slow_engine import slow
from guard_bench.live.stop_rules import rules
from guard_bench.live.stops import stops


class LiveCase(StrEnum):
    """What `guard bench live` measures."""

    finals = "finals"
    cost = "cost"
    slow = "slow"
    stops = "stops"
    moves = "moves"
    beside = "beside"
    rules = "rules"


_CASES: dict[LiveCase, Callable[[LiveBench], Awaitable[list[LiveOutcome]]]] = {
    LiveCase.finals: finals,
    LiveCase.cost: cost,
    LiveCase.slow: slow,
    LiveCase.stops: stops,
    LiveCase.moves: moves,
    LiveCase.beside: beside,
    LiveCase.rules: rules,
}


async def measure(bench: LiveBench, case: LiveCase) -> list[LiveOutcome]:
    """Its rows of the table. Raises OSError, RuntimeError or AioRpcError."""
    return await _CASES[case](bench)
