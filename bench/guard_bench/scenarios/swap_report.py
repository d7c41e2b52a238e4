"""What swaps and kills under load did to the calls that were made meanwhile."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.sample import quantile

_SLOWEST = 40  # calls that the report names


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """How much is done."""

    swaps: int = 20
    deploys: int = 0
    """Whole deployments (Triton started, verified, shadowed, the old one stopped) after the
    swaps."""
    kills: int = 0
    """Times at the end that the Triton of the slot with most of the traffic is killed."""
    calls: int = 0
    """At least so many while there are swaps: the spans before them get longer for it."""
    before_s: float = 5.0
    """Load without any change, before each swap: what the swap is compared with."""
    pause_s: float = 1.5
    load: float = 0.5
    """Share of the capacity."""
    workers: int = 2
    capacity_s: float = 8.0
    settle_s: float = 20.0
    """Load on both slots before the first swap, as after an hour in operation."""
    rest_s: float = 1.0
    """After each swap, before the next span without any change."""
    follows: int = 30
    """Times that the traffic is changed to see how fast it is followed."""
    verify_with: Path | None = None
    """Conversations that a candidate is verified with, if not the golden set."""
    max_factor: float = 4.0


@dataclass(frozen=True, slots=True)
class SwapTimes:
    """When one swap was made: times are the event loop's clock, in seconds."""

    calm: float
    """Nothing was changed from then on until it began."""
    begun: float
    ended: float
    to: str
    whole: bool
    """A deployment."""


@dataclass(frozen=True, slots=True)
class SwapResult:
    """One swap, beside the span before it."""

    to: str
    seconds: float
    calls_before: int
    calls: int
    p99_before_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        """How many times longer p99 was during the swap; 0 without calls before."""
        return self.p99_ms / self.p99_before_ms if self.p99_before_ms else 0.0


@dataclass(frozen=True, slots=True)
class KillResult:
    """One kill of the active slot's Triton."""

    in_flight: int
    """Calls that had begun and not ended then, on either slot."""
    retried: int
    """Requests that the gateway sent to the other slot instead."""
    failed: int
    """Calls that failed from then until it was back."""
    slowest_ms: float
    """Of the calls in flight then."""
    back_s: float
    """Until it was ready again."""


@dataclass
class SwapReport:
    """What one run found. Rates are calls a second, latencies from when a call was due."""

    plan: SwapPlan
    machine: dict[str, str | int]
    capacity: float = 0.0
    """Calls a second in a closed loop, both slots with half of the traffic."""
    rate: float = 0.0
    calls: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    wrong_slot: int = 0
    """Replies that name a slot without traffic at that time."""
    by_slot: dict[str, int] = field(default_factory=dict)
    drafts_accepted: float = 0.0
    swaps: list[SwapResult] = field(default_factory=list)
    deploys: list[SwapResult] = field(default_factory=list)
    kills: list[KillResult] = field(default_factory=list)
    slowest: list[tuple[float, float, str]] = field(default_factory=list)
    """Calls: seconds since the first swap began, latency in milliseconds, slot."""
    p99_before_ms: float = 0.0
    p99_during_ms: float = 0.0
    """Of all swaps' calls together."""
    follow_ms: tuple[float, float] = (0.0, 0.0)
    """Median and longest, from SetTraffic's call to its reply: every process follows."""

    @property
    def lost(self) -> int:
        """Calls with neither a slot's verdict nor an error."""
        return self.calls - sum(self.failed.values()) - sum(self.by_slot.values())

    @property
    def ratio(self) -> float:
        """How many times longer p99 was during all swaps; 0 without calls before."""
        return self.p99_during_ms / self.p99_before_ms if self.p99_before_ms else 0.0

    def add_calls(
        self,
        calls: Sequence[LoadCall],
        allowed: Sequence[tuple[float, set[str]]],
        changes: Sequence[SwapTimes],
    ) -> None:
        """Counts all calls. `allowed`: which slots had traffic, each from a time on."""
        self.calls = len(calls)
        self.failed = dict(Counter(call.error for call in calls if call.error))
        self.by_slot = dict(Counter(call.slot for call in calls if call.slot))
        self.wrong_slot = sum(
            call.slot not in _allowed(allowed, call) for call in calls if call.slot
        )
        self.drafts_accepted = statistics.mean(call.result.draft_accepted for call in calls)
        origin = changes[0].begun if changes else 0.0
        answered = [call for call in calls if call.answered]
        slowest = sorted(answered, key=lambda call: call.latency_s, reverse=True)[:_SLOWEST]
        self.slowest = [(c.due - origin, c.latency_s * 1000, c.slot) for c in slowest]
        self._add_swaps(answered, changes)

    def save(self, path: Path) -> None:
        """Writes JSON, with `lost` and `ratio` too."""
        found = asdict(self) | {"lost": self.lost, "ratio": self.ratio}
        path.write_text(json.dumps(found, indent=2, default=str) + "\n")

    def _add_swaps(self, calls: Sequence[LoadCall], changes: Sequence[SwapTimes]) -> None:
        before: list[float] = []
        during: list[float] = []
        for change in changes:
            earlier = [c.latency_s for c in calls if change.calm <= c.due < change.begun]
            swapping = [c.latency_s for c in calls if change.begun <= c.due < change.ended]
            result = SwapResult(
                change.to,
                change.ended - change.begun,
                len(earlier),
                len(swapping),
                _p99_ms(earlier),
                _p99_ms(swapping),
            )
            if change.whole:
                self.deploys.append(result)
            else:
                self.swaps.append(result)
                before += earlier
                during += swapping
        self.p99_before_ms, self.p99_during_ms = _p99_ms(before), _p99_ms(during)


def _allowed(allowed: Sequence[tuple[float, set[str]]], call: LoadCall) -> set[str]:
    """Slots that had traffic at any time between the call's beginning and its end."""
    found: set[str] = set()
    for number, (since, names) in enumerate(allowed):
        until = allowed[number + 1][0] if number + 1 < len(allowed) else float("inf")
        if since <= call.ended and call.due < until:
            found |= names
    return found


def _p99_ms(latencies: Sequence[float]) -> float:
    return quantile(latencies, 0.99) * 1000 if latencies else 0.0
