"""Gates: what live requests must show before a candidate gets more of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from guard_core.stats import quantile
from guard_eval.verify import Share
from guard_server.telemetry.worker_status import SlotStatus

# With fewer samples, an error rate or a quantile says nothing.
MIN_FOR_ERRORS = 20
MIN_FOR_P99 = 100
MIN_FOR_AGREEMENT = 100  # with fewer, the step reports that they are few
TOLERATED_ERRORS = 0.001  # allowed beside an active slot without errors

_Worker = TypeVar("_Worker")
SlotStatuses = Mapping[_Worker, SlotStatus]
"""One slot's status in each worker."""


@dataclass(frozen=True, slots=True)
class Window:
    """One slot's requests in a span of time."""

    answered: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    ejections: int = 0  # times that a worker took the slot out of rotation

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


def window(before: SlotStatuses[_Worker], after: SlotStatuses[_Worker]) -> Window:
    """The requests between two readings. A new worker counts from its start."""
    answered = failed = ejections = 0
    latency: Counter[int] = Counter()
    for worker, now in after.items():
        answered += now.answered
        failed += sum(now.failed.values())
        ejections += now.ejections
        latency.update(now.latency)
        then = before.get(worker)
        if then is not None:
            answered -= then.answered
            failed -= sum(then.failed.values())
            ejections -= then.ejections
            latency.subtract(then.latency)
    return Window(answered, failed, +latency, ejections)


def reasons(candidate: Window, active: Window, factor: float) -> list[str]:
    """Why the candidate must not get more traffic; empty if it may.

    It passes where there are too few samples to compare.
    """
    found = []
    if candidate.ejections:
        found.append(f"It was lost {candidate.ejections} times while it was watched.")
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


def missing_samples(candidate: Window, active: Window) -> str:
    """What has too few samples for a gate, or ""."""
    if candidate.ended < MIN_FOR_ERRORS:
        return "requests to compare error rates"
    return "" if _enough_for_p99(candidate, active) else "answers to compare p99"


def _enough_for_p99(candidate: Window, active: Window) -> bool:
    return min(candidate.answered, active.answered) >= MIN_FOR_P99


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """How a shadow's verdicts compare with those that callers got."""

    compared: int = 0
    agreed: int = 0
    failed: int = 0
    dropped: int = 0
    severities: Counter[str] = field(default_factory=Counter)  # of verdicts that differ

    @property
    def judged(self) -> int:
        return self.compared + self.failed

    @property
    def starved(self) -> bool:
        """Whether enough live requests came, but too few found spare capacity to be judged."""
        return self.judged < MIN_FOR_ERRORS <= self.judged + self.dropped

    def __str__(self) -> str:
        left_out = f"{self.failed} failed, {self.dropped} were skipped at the concurrency limit"
        if not self.compared:
            return f"no live verdict was compared; {left_out}"
        differing = "".join(f", {count} {pair}" for pair, count in self.severities.most_common())
        agreement = Share.of(self.agreed, self.compared)
        return f"agreement on live requests {agreement}{differing}; {left_out}"


def shadow_result(statuses: SlotStatuses[_Worker]) -> ShadowResult:
    """Of all workers, since the slot was started."""
    found = [status.shadow for status in statuses.values()]
    severities: Counter[str] = Counter()
    for shadow in found:
        severities.update(shadow.severities)
    return ShadowResult(
        compared=severities.total(),
        agreed=sum(shadow.agreed for shadow in found),
        failed=sum(shadow.failed for shadow in found),
        dropped=sum(shadow.dropped for shadow in found),
        severities=Counter({k: n for k, n in severities.items() if len(set(k.split("/"))) > 1}),
    )


def shadow_reasons(found: ShadowResult, least_agreement: float | None) -> list[str]:
    """Why the candidate must not get traffic; empty if it may, or if too few requests came."""
    reasons = []
    if found.starved:
        reasons.append(
            f"Only {found.judged} live requests were judged by it and {found.dropped} were "
            "skipped, since no capacity was spare: deploy when the server is less busy, or with "
            "`--shadow-share 0`."
        )
    if found.judged >= MIN_FOR_ERRORS and found.failed > found.judged * TOLERATED_ERRORS:
        reasons.append(f"{found.failed} of {found.judged} live requests got no verdict from it.")
    if least_agreement is not None and found.compared >= MIN_FOR_ERRORS:
        agreement = Share.of(found.agreed, found.compared)
        # A sample may be below the bound by chance; the verification's fixed set may not.
        if agreement.high < least_agreement:
            reasons.append(
                f"Agreement on live requests is {agreement}; at least {least_agreement:g} is "
                "required."
            )
    return reasons
