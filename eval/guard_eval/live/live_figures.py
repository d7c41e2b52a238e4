"""The figures of live moderation over many answers."""

from collections.abc import Sequence
from statistics import median

from guard_core.schema import Record
from guard_eval.live.live_runs import LiveRun
from guard_eval.tables import NOTHING, Grid, percent


class LiveFigures(Record):
    """Shares are fractions; None where there is nothing that they are of."""

    answers: int
    allowed: int
    blocked: int
    held: float | None
    """Of the answers: a beginning was blocked."""
    retracted: float | None
    """Of the allowed ones: a beginning was blocked."""
    cut_off: float | None
    """Of the allowed ones: stopped before their end."""
    stopped: float | None
    """Of the blocked ones: stopped before their end."""
    late: float | None
    """Of the blocked ones: all that was judged before their end was cleared."""
    seen: float | None
    """Of a stopped answer, cleared before the stop: the median."""
    delay_bytes: float | None
    """From the marked onset to the end of the first blocked beginning: the median."""
    missed_onsets: int
    """Answers with a marked onset of which no beginning from there on was blocked."""
    checks_per_1000_tokens: float
    computed_per_1000_tokens: float

    def grid(self) -> Grid:
        """A table for people."""
        delay = NOTHING if self.delay_bytes is None else f"{self.delay_bytes:,.0f}"
        rows = (
            (
                "answers (allowed, blocked as a whole)",
                f"{self.answers:,} ({self.allowed:,}, {self.blocked:,})",
            ),
            ("held, % of all", percent(self.held)),
            ("retracted, % of the allowed", percent(self.retracted)),
            ("cut off, % of the allowed", percent(self.cut_off)),
            ("stopped before the end, % of the blocked", percent(self.stopped)),
            ("late, % of the blocked", percent(self.late)),
            ("cleared before a stop, median %", percent(self.seen)),
            ("from the onset to the hold, median bytes", delay),
            ("onsets that no beginning found", f"{self.missed_onsets:,}"),
            ("checks for 1,000 answer tokens", f"{self.checks_per_1000_tokens:.1f}"),
            ("computed for 1,000 answer tokens", f"{self.computed_per_1000_tokens:,.0f}"),
        )
        return Grid("Live moderation", ("figure", "value"), rows)


def live_figures(runs: Sequence[LiveRun]) -> LiveFigures:
    """Of at least one run."""
    allowed = [run for run in runs if not run.blocked]
    blocked = [run for run in runs if run.blocked]
    tokens = sum(run.answer_tokens for run in runs)
    marked = [(run, _onset(run)) for run in runs]
    found = [
        run.held_at * run.size - onset
        for run, onset in marked
        if onset is not None and run.held_at is not None and run.held_at * run.size > onset
    ]
    seen = [run.cleared for run in runs if run.stopped]
    return LiveFigures(
        answers=len(runs),
        allowed=len(allowed),
        blocked=len(blocked),
        held=_share([run.held for run in runs]),
        retracted=_share([run.held for run in allowed]),
        cut_off=_share([run.stopped for run in allowed]),
        stopped=_share([run.stopped for run in blocked]),
        late=_share([run.passing and run.cleared > 0 for run in blocked]),
        seen=median(seen) if seen else None,
        delay_bytes=median(found) if found else None,
        missed_onsets=sum(onset is not None for _, onset in marked) - len(found),
        checks_per_1000_tokens=1000 * sum(run.checks for run in runs) / tokens,
        computed_per_1000_tokens=1000 * sum(run.computed_tokens for run in runs) / tokens,
    )


def _onset(run: LiveRun) -> int | None:
    """Where the unsafe part begins, in bytes."""
    onset = run.example.onset
    return None if onset is None else len(run.example.messages[-1].content[:onset].encode())


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
