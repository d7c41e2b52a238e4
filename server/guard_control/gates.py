"""What a candidate's live requests must show beside the active slot's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from guard_core.stats import quantile
from guard_eval.verify import Share
from guard_server.telemetry.worker_status import SlotStatus

# A share or a quantile of fewer says nothing.
MIN_FOR_ERRORS = 20
MIN_FOR_P99 = 100
MIN_FOR_AGREEMENT = 100  # with fewer, the step says that they are few
TOLERATED_ERRORS = 0.001  # an active slot without any error asks no more than this

Snapshot = Mapping[int, SlotStatus]
"""One slot's counts, by the gateway process's id."""


@dataclass(frozen=True, slots=True)
class Window:
    """One slot's requests in some span of time."""

    answered: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    lost: int = 0  # times that a gateway process took the slot out

    @property
    def ended(self) -> int:
        return self.answered + self.failed

    @property
    def error_rate(self) -> float:
        return self.failed / self.ended if self.ended else 0.0

    @property
    def p99_ms(self) -> float:
        return quantile(self.latency, 0.99) / 1000

    def __str__(self) -> str:
        if not self.ended:
            return "no requests"
        return f"{self.ended} requests, {self.failed} failed, p99 {self.p99_ms:.1f} ms"


def window(before: Snapshot, after: Snapshot) -> Window:
    """What came between two snapshots. A process that is new counts from its start."""
    answered = failed = lost = 0
    latency: Counter[int] = Counter()
    for pid, now in after.items():
        answered += now.answered
        failed += sum(now.failed.values())
        lost += now.ejections
        latency.update(now.latency)
        then = before.get(pid)
        if then is not None:
            answered -= then.answered
            failed -= sum(then.failed.values())
            lost -= then.ejections
            latency.subtract(then.latency)
    return Window(answered, failed, +latency, lost)


def reasons(candidate: Window, active: Window, factor: float) -> list[str]:
    """Why the candidate must not have more traffic; none if it may.

    What is too little to compare is not held against it.
    """
    found = []
    if candidate.lost:
        found.append(f"It was lost {candidate.lost} times while it was watched.")
    allowed = max(active.error_rate * factor, TOLERATED_ERRORS)
    if candidate.ended >= MIN_FOR_ERRORS and candidate.error_rate > allowed:
        found.append(
            f"Its error rate is {candidate.error_rate:.2%} of {candidate.ended} requests; "
            f"at most {allowed:.2%} is allowed."
        )
    if _enough_for_p99(candidate, active) and candidate.p99_ms > active.p99_ms * factor:
        found.append(
            f"Its p99 is {candidate.p99_ms:.1f} ms; the active slot's is {active.p99_ms:.1f} ms, "
            f"and {factor:g} times that is allowed."
        )
    return found


def unjudged(candidate: Window, active: Window) -> str:
    """What there was too little of to judge; empty if there was enough."""
    if candidate.ended < MIN_FOR_ERRORS:
        return "requests to judge by"
    return "" if _enough_for_p99(candidate, active) else "answers to judge its p99 by"


def _enough_for_p99(candidate: Window, active: Window) -> bool:
    return min(candidate.answered, active.answered) >= MIN_FOR_P99


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What came of a shadow's part of the live requests."""

    compared: int = 0
    agreed: int = 0
    failed: int = 0
    dropped: int = 0
    severities: Counter[str] = field(default_factory=Counter)  # those that differ

    def __str__(self) -> str:
        left_out = f"{self.failed} failed, {self.dropped} were left out for want of room"
        if not self.compared:
            return f"no live verdict was compared; {left_out}"
        differing = "".join(f", {count} {pair}" for pair, count in self.severities.most_common())
        agreement = Share.of(self.agreed, self.compared)
        return f"agreement on live requests {agreement}{differing}; {left_out}"


def shadowed(counts: Snapshot) -> Shadowed:
    """What a slot came to as a shadow since it was started."""
    found = [status.shadow for status in counts.values()]
    severities: Counter[str] = Counter()
    for shadow in found:
        severities.update(shadow.severities)
    return Shadowed(
        compared=severities.total(),
        agreed=sum(shadow.agreed for shadow in found),
        failed=sum(shadow.failed for shadow in found),
        dropped=sum(shadow.dropped for shadow in found),
        severities=Counter({k: n for k, n in severities.items() if len(set(k.split("/"))) > 1}),
    )


def shadow_reasons(found: Shadowed, least_agreement: float | None) -> list[str]:
    """Why the candidate must not have traffic; none if it may. Too few are not held against it."""
    reasons = []
    asked = found.failed + found.compared
    if asked >= MIN_FOR_ERRORS and found.failed > asked * TOLERATED_ERRORS:
        reasons.append(f"{found.failed} of {asked} live requests could not be judged.")
    if least_agreement is not None and found.compared >= MIN_FOR_ERRORS:
        agreement = Share.of(found.agreed, found.compared)
        # A sample's share may be lower by chance: the verification's, of a fixed set, may not.
        if agreement.high < least_agreement:
            reasons.append(
                f"Agreement on live requests is {agreement}; at least {least_agreement:g} is "
                "required."
            )
    return reasons
