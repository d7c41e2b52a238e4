"""What one fault did to the calls that were made meanwhile, and the table of all."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from guard_bench.chaos.load import WRONG
from guard_bench.loadgen.call import NO_ANSWER, OK, LoadCall


@dataclass(frozen=True, slots=True)
class FaultResult:
    """One fault, in one set-up."""

    fault: str
    part: str
    setup: str
    retries: bool
    calls: int
    failed: dict[str, int]
    """By status: all but OK."""
    lost: int
    wrong: int
    longest_s: float
    """Without any verdict, from the fault on."""
    limit_s: float
    whole: bool
    """Whether all processes were there again at the end, and none of a killed server was left."""
    may_fail: bool = True
    """Whether a call may end with an error."""
    missing: str = ""
    """What was not seen, so that the rest says nothing: verdicts before the fault, its effect, or
    verdicts at the end."""

    @property
    def reached(self) -> bool:
        """Nothing lost, nothing wrong, no INTERNAL, verdicts again in time."""
        well = not (self.lost or self.wrong or "INTERNAL" in self.failed)
        well = well and (self.may_fail or not self.failed)
        return well and self.whole and not self.missing and self.longest_s <= self.limit_s


def verdict_age(calls: Sequence[LoadCall], now: float) -> float:
    """Seconds since the last verdict; times are the event loop's."""
    return now - max((one.ended for one in calls if one.result.status == OK), default=-math.inf)


def last_failure(calls: Sequence[LoadCall]) -> float:
    """When the last call ended without a verdict; long ago if none did."""
    failed = (one.ended for one in calls if one.answered and one.result.status != OK)
    return max(failed, default=-math.inf)


def longest_without(calls: Sequence[LoadCall], begun: float, ended: float) -> float:
    """Seconds between two verdicts, at most, from `begun` on; times are the event loop's."""
    verdicts = sorted(
        call.ended for call in calls if call.result.status == OK and begun <= call.ended <= ended
    )
    return max(after - before for before, after in pairwise([begun, *verdicts, ended]))


def result_counts(calls: Sequence[LoadCall]) -> tuple[dict[str, int], int, int]:
    """Failed by status, lost and wrong."""
    found = Counter(call.result.status for call in calls)
    lost, wrong = found.pop(NO_ANSWER.status, 0), found.pop(WRONG, 0)
    found.pop(OK, None)
    return dict(found), lost, wrong


def table(results: Sequence[FaultResult]) -> str:
    """In Markdown."""
    lines = [
        "| what | of | served by | retries | calls | failed | lost | wrong | "
        "longest without a verdict (limit) | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        failed = ", ".join(f"{count} {status}" for status, count in sorted(one.failed.items()))
        missing = f": {one.missing}" if one.missing else ""
        lines.append(
            f"| {one.fault} | {one.part} | {one.setup} | {'on' if one.retries else 'off'} | "
            f"{one.calls} | {failed or 0} | {one.lost} | {one.wrong} | {one.longest_s:.1f} s "
            f"({one.limit_s:g}) | {'yes' if one.reached else '**no**'}{missing} |"
        )
    return "\n".join(lines)
