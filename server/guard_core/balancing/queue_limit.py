"""How many requests one gateway has in flight at one replica, moved by the engine's queue time.

The engine's queue is that of all gateways together, so each of them learns from its own answers how
loaded the replica is, without knowing of the others. A verdict is often one engine step, so an
arrival waits for half a step on average and for one at most: that is no queue.

Where gateways outnumber what the engine takes in flight, a limit falls below one: half a request in
flight is one that is followed by a pause as long as it took.
"""

from dataclasses import dataclass

_LEAST = 1 / 8  # one request in eight times as long as it takes
_LONG_S, _LONG_STEPS = 0.02, 1.5  # a longer wait is a queue
_SHORT_STEPS = 1.0  # a wait up to that is none
_CUT, _DEEP_CUT = 0.8, 0.5
_DEEP = 3.0  # times a long wait: far too much is in flight
_GROWTH_BELOW_ONE = 0.5  # of the limit, with each answer: one more a round would be many times it
_STEP_WEIGHT, _QUEUE_WEIGHT = 0.1, 0.2  # of the newest in the means: prompts differ in length


@dataclass(slots=True, eq=False)
class QueueLimit:
    """A limit that grows by one a round while the engine has no queue, and is cut while it has."""

    most: float  # that the engine takes
    limit: float
    step_s: float = 0.0  # mean; 0: not known yet
    queue_s: float = 0.0  # mean
    cut_at: float = 0.0

    def pause_s(self, seconds: float) -> float:
        """So long nothing is sent after a request that took `seconds`; 0 unless below one."""
        return pause_s(self.limit, seconds)

    def answered(
        self, *, queue_s: float, step_s: float, sent_at: float, in_flight: int, now: float
    ) -> None:
        """An answer says that its request waited `queue_s` in the engine, and its first step took
        `step_s`. `in_flight`: of this gateway there, with that request.
        """
        self.step_s += (step_s - self.step_s) * (_STEP_WEIGHT if self.step_s else 1)
        self.queue_s += (queue_s - self.queue_s) * _QUEUE_WEIGHT
        long_s = max(_LONG_S, _LONG_STEPS * self.step_s)
        if self.queue_s > long_s:
            if sent_at >= self.cut_at:  # what was sent before the last cut met the old queue
                cut = _DEEP_CUT if self.queue_s > _DEEP * long_s else _CUT
                self.limit = max(_LEAST, self.limit * cut)
                self.cut_at = now
        elif queue_s <= max(_LONG_S / 2, _SHORT_STEPS * self.step_s) and in_flight + 1 > self.limit:
            growth = 1 / self.limit if self.limit >= 1 else _GROWTH_BELOW_ONE * self.limit
            self.limit = min(self.most, self.limit + growth)


def pause_s(limit: float, seconds: float) -> float:
    """How long after a request that took `seconds` the next one begins; 0 unless below one."""
    return seconds * (1 / limit - 1) if limit < 1 else 0.0
