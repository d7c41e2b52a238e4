"""Which replica is ejected though it answers: far slower than the others, or at fault alone.

Expected time already sends a slow replica little. What is ten times slower than the others costs
even so, and its chats stay with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from guard_core.balancing.expected_time import ReplicaLoad

SLOW_S = 10.0
_SLOW_ANSWERS = 20  # after one slow answer the means are below the bound again by then
_SLOW_TIMES = 5.0  # the median of the others
_MOST_FAULTS = 5  # in a row
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 300.0


class Ejection(NamedTuple):
    """Why a replica is taken out of rotation, and how long at least: 0 where it is lost."""

    reason: str
    pause_s: float = 0.0


@dataclass(slots=True, eq=False)
class Outlier:
    """Watches one replica of several. Times are seconds of any one clock.

    `answers`, in each call, is how many answers the replica gave so far.
    """

    _faults: int = 0
    _faults_at: int = 0  # answers, when the newest of these faults was found
    _slow_since: float | None = None
    _slow_at: int = 0  # answers, when it began to be slow
    _pause_s: float = 0.0  # of its newest ejection
    _back_at: float = 0.0

    def at_fault(self, answers: int) -> bool:
        """It failed a request that another replica then answered: the request was no reason.

        Whether it is to be ejected for that.
        """
        if answers != self._faults_at:
            self._faults, self._faults_at = 0, answers
        self._faults += 1
        return self._faults >= _MOST_FAULTS

    def ejection(
        self, load: ReplicaLoad, others: Sequence[ReplicaLoad], answers: int, now: float
    ) -> Ejection | None:
        """To be asked every moment. `others`: those that are ready; without any, it is not ejected
        for being slow.
        """
        if self._faults >= _MOST_FAULTS and answers == self._faults_at:
            return self._ejected(f"{self._faults} requests in a row failed only here", now)
        if not _slow(load, others):
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since, self._slow_at = now, answers
        elif now - self._slow_since >= SLOW_S and answers - self._slow_at >= _SLOW_ANSWERS:
            return self._ejected(f"it takes over {_SLOW_TIMES:g} times as long as the others", now)
        return None

    def _ejected(self, reason: str, now: float) -> Ejection:
        """For longer each time, unless it was in rotation for as long as it had been out."""
        soon = now - self._back_at < self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if soon else _PAUSE_S
        self._back_at = now + self._pause_s
        self._faults, self._slow_since = 0, None
        return Ejection(reason, self._pause_s)


def _slow(load: ReplicaLoad, others: Sequence[ReplicaLoad]) -> bool:
    """By token and by answer: long prompts take longer, and short ones take more for each token."""
    known = [other for other in others if other.seconds_per_token]
    if not known:
        return False
    per_token = median([other.seconds_per_token for other in known])
    per_answer = median([other.mean_s for other in known])
    return (
        load.seconds_per_token > _SLOW_TIMES * per_token and load.mean_s > _SLOW_TIMES * per_answer
    )
