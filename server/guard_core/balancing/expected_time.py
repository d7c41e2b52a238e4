"""Which replica gets a request: the one that is expected to answer first.

    need  = the request's tokens, less those of earlier messages on the conversation's own replica
    more  = (tokens that this gateway has outstanding there + need) / (the usual ones + need)
    score = need x the replica's seconds a token x more, if that is above one

An engine computes many requests at a time, and the seconds a token are of answers that had the
usual tokens before them: fewer make an answer no sooner, more make it later.

The candidates are the two that the conversation's key ranks highest, which all gateways rank alike,
and two drawn at random. The first of the key's two is favoured by `AFFINITY`: it may hold the
conversation's KV cache. What other gateways ask of a replica shows in its seconds a token. Why so,
and what else was tried: docs/scaling.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol, TypeVar

from guard_core.balancing.queue_limit import QueueLimit

AFFINITY = 1.5
SLOW_START_S = 10.0
_SLOW_START = 2.0  # times the mean of the others
_UP, _DOWN = 0.3, 0.1  # weights of a slower and of a faster answer
_LEAST_TOKENS = 50  # an answer takes a while however few tokens are computed
_FIRST_GUESS = 1e-5  # seconds a token, while no replica has answered
_FORGET_S = 5.0  # without an answer, half of a replica's distance to the mean is forgotten
_SILENT_S, _SILENT_TIMES = 0.8, 2.0
_LONG_TIMES = 4.0  # the mean prompt: longer ones are not among the slowest answers so far

_MASK = 2**64 - 1


class Work(NamedTuple):
    """A request, as far as the choice needs it."""

    key: int  # 64 bits, equal for all requests of a conversation
    tokens: int  # of its prompt
    reusable: int  # of these, the ones that an earlier request of the conversation had too


@dataclass(slots=True, eq=False)
class ReplicaLoad:
    """What one gateway knows of one replica's load. Times are seconds of any one clock."""

    seed: int  # 64 bits of its name: all gateways rank replicas alike
    queue_limit: QueueLimit
    in_flight: int = 0
    tokens: int = 0  # outstanding
    usual_tokens: float = 0.0  # outstanding before a request, in the mean
    longest: int = 0  # tokens that none of the requests in flight exceeds
    seconds_per_token: float = 0.0  # 0: it has not answered yet
    answered_at: float = 0.0
    paused_until: float = 0.0  # while its limit is below one
    slow_until: float = 0.0
    slowest_s: float = 0.0  # of its answers; the past counts less and less
    mean_s: float = 0.0  # of its answers
    mean_tokens: float = 0.0  # of their prompts, those that were computed

    @classmethod
    def of(cls, name: str, limit: QueueLimit) -> "ReplicaLoad":
        return cls(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()), limit)

    @property
    def limit(self) -> float:
        """Requests in flight from this gateway."""
        return self.queue_limit.limit

    def has_capacity(self, now: float) -> bool:
        return self.in_flight + 1 <= max(1.0, self.queue_limit.limit) and now >= self.paused_until

    def taken_in(self, now: float) -> None:
        """It is ready, as new or after a loss: its KV cache may be empty, so it starts slowly."""
        self.slow_until = now + SLOW_START_S

    def warmed_up(self, seconds: float) -> None:
        """A verdict of its warm-up took so long: an answer may, too."""
        self.slowest_s = max(seconds, self.slowest_s)

    def begin(self, tokens: int) -> int:
        """A request of so many tokens is sent there, until `end`: the tokens outstanding before."""
        ahead = self.tokens
        self.in_flight += 1
        self.tokens += tokens
        self.longest = max(self.longest, tokens)
        return ahead

    def end(self, tokens: int) -> None:
        self.in_flight -= 1
        self.tokens -= tokens
        self.longest = min(self.longest, self.tokens)

    def answered(self, seconds: float, computed: int, ahead: int, now: float) -> None:
        """It answered after `seconds` and computed so many tokens for it. `ahead`: of `begin`."""
        found = seconds / max(_LEAST_TOKENS, computed)
        known = self.seconds_per_token
        weight = (_UP if found > known else _DOWN) if known else 1.0
        self.seconds_per_token = known + weight * (found - known)
        weight = _DOWN if known else 1.0
        self.usual_tokens += (ahead - self.usual_tokens) * weight
        self.mean_s += (seconds - self.mean_s) * weight
        self.mean_tokens += (computed - self.mean_tokens) * weight
        self.answered_at = now
        self.paused_until = now + self.queue_limit.pause_s(seconds)
        self.slowest_s = max(seconds, 0.99 * self.slowest_s)

    def patience(self) -> float:
        """So long it may answer nothing, with requests in flight, before others take over."""
        longer = self.longest / (_LONG_TIMES * self.mean_tokens) if self.mean_tokens else 0.0
        return max(_SILENT_S, _SILENT_TIMES * self.slowest_s * max(1.0, longer))

    def expected_s(self, need: int, mean: float, now: float) -> float:
        """How long an answer takes for which it computes so many tokens; `mean`: see `pace`."""
        more = (self.tokens + need) / (self.usual_tokens + need)
        return need * self.pace(mean, now) * max(1.0, more)

    def pace(self, mean: float, now: float) -> float:
        """Seconds a token that are expected of it, where `mean` is that of all."""
        pace = self.seconds_per_token
        if pace:
            # What was measured long ago says little: else a replica that was slow once starves.
            pace = mean + (pace - mean) * 0.5 ** ((now - self.answered_at) / _FORGET_S)
        else:
            pace = mean
        return max(pace, _SLOW_START * mean) if now < self.slow_until else pace


class HasLoad(Protocol):
    """A replica."""

    @property
    def load(self) -> ReplicaLoad: ...


R = TypeVar("R", bound=HasLoad)


def pick(replicas: Sequence[R], work: Work, now: float, draw: Random) -> tuple[R, int]:
    """One of `replicas`, of which there is one at least, and the tokens to count for it.

    Those at their limit are passed over unless all are.
    """
    able = [replica for replica in replicas if replica.load.has_capacity(now)] or replicas
    if len(able) == 1:
        return able[0], work.tokens
    first, second = _ranked(able, work.key)
    known = [pace for replica in able if (pace := replica.load.seconds_per_token)]
    mean = sum(known) / len(known) if known else _FIRST_GUESS
    best, best_need = first, max(1, work.tokens - work.reusable)
    load = first.load
    best_score = load.expected_s(best_need, mean, now) / AFFINITY
    drawn = (able[int(draw.random() * len(able))] for _ in range(2))
    for other in (second, *drawn):
        if other is first:
            continue
        load = other.load
        score = load.expected_s(work.tokens, mean, now)
        if score < best_score:
            best, best_need, best_score = other, work.tokens, score
    return best, best_need


def _ranked(replicas: Sequence[R], key: int) -> tuple[R, R]:
    """The first two of the key's rendezvous order."""
    first = second = replicas[0]
    most = next_most = -1
    for replica in replicas:
        rank = _mixed(key ^ replica.load.seed)
        if rank > most:
            first, second, most, next_most = replica, first, rank, most
        elif rank > next_most:
            second, next_most = replica, rank
    return first, second


def _mixed(number: int) -> int:
    """The finalizer of splitmix64: every bit of the result depends on all of the number."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
