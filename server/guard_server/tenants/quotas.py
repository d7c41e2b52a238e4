"""Quotas of tenants: exact over all workers of one gateway."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from guard_core.errors import QuotaExceeded
from guard_core.tenants.quota import Quota, Rate
from guard_core.tenants.tenant_file import TenantFile
from guard_server.routing.caller import Identity
from guard_server.tenants.shared_usage import Bucket, BucketKind, SharedUsage

_RETRY_S = 0.5  # while too much is in flight: when something ends is not known
_NONE: AbstractContextManager[None] = nullcontext()


class _Limits(NamedTuple):
    """All quotas of one caller: its own and the server's. By row: who, and what was agreed."""

    conversations: tuple[Bucket, ...] = ()
    tokens: tuple[Bucket, ...] = ()
    in_flight: tuple[tuple[int, int], ...] = ()  # rows, and how much each may have


class Quotas:
    """Those of one gateway process."""

    def __init__(self, usage: SharedUsage) -> None:
        self.usage = usage
        self._tenants: dict[str, _Limits] = {}
        self._others = _Limits()
        self._said: dict[Bucket | int, tuple[str, str]] = {}  # who has what, for errors

    def follow(self, file: TenantFile) -> None:
        """Takes up a file's quotas. What was used before still counts."""
        self._said = {}
        total = self._limits("the server", "total", file.total)
        self._others = _both(self._limits("others", "others", file.others.quota), total)
        self._tenants = {
            name: _both(self._limits(f"tenant {name}", f"tenant:{name}", tenant.quota), total)
            for name, tenant in file.tenants.items()
        }

    def taken(
        self, identity: Identity, conversations: int, in_flight: int
    ) -> AbstractContextManager[None]:
        """Takes so many conversations, which are in flight while the block runs.

        Raises QuotaExceeded, and takes nothing then.
        """
        limits = self._tenants.get(identity.tenant, self._others)
        if not (limits.conversations or limits.in_flight):
            return _NONE
        usage = self.usage
        usage.lock()
        try:
            for row, most in limits.in_flight:
                if usage.in_flight(row) + in_flight > most:
                    raise self._exceeded(row, _RETRY_S if in_flight <= most else math.inf)
            if limits.conversations and (found := usage.take(limits.conversations, conversations)):
                raise self._exceeded(*found)
            for row, _ in limits.in_flight:
                usage.add_in_flight(row, in_flight)
        finally:
            usage.unlock()
        return _InFlight(usage, limits, in_flight) if limits.in_flight else _NONE

    def take_tokens(self, identity: Identity, tokens: int) -> None:
        """Takes tokens of a prompt. Raises QuotaExceeded, and takes none then."""
        buckets = self._tenants.get(identity.tenant, self._others).tokens
        if not buckets:
            return
        self.usage.lock()
        try:
            if found := self.usage.take(buckets, tokens):
                raise self._exceeded(*found)
        finally:
            self.usage.unlock()

    def _limits(self, who: str, name: str, quota: Quota | None) -> _Limits:
        if quota is None:
            return _Limits()
        row = self.usage.row(name)
        running = () if quota.in_flight is None else ((row, quota.in_flight),)
        self._said[row] = who, f"{quota.in_flight} conversations in flight"
        return _Limits(
            self._bucket(who, row, BucketKind.CONVERSATIONS, quota.conversations),
            self._bucket(who, row, BucketKind.TOKENS, quota.tokens),
            running,
        )

    def _bucket(
        self, who: str, row: int, kind: BucketKind, rate: Rate | None
    ) -> tuple[Bucket, ...]:
        if rate is None:
            return ()
        bucket = self.usage.bucket(row, kind, rate.per_s, rate.most)
        what = kind.name.lower()
        self._said[bucket] = who, f"{rate.per_s:g} {what} a second, {rate.most:g} at once"
        return (bucket,)

    def _exceeded(self, limit: Bucket | int, wait: float) -> QuotaExceeded:
        who, most = self._said[limit]
        for_good = wait == math.inf
        advice = "Retry after the delay in RetryInfo."
        if for_good:
            advice = "This request alone is more than that: send less at once."
        text = f"Over quota: {who} has {most}. {advice}"
        return QuotaExceeded(text, who, most, None if for_good else wait)


class _InFlight(AbstractContextManager[None]):
    """What ends when the block does."""

    __slots__ = ("_count", "_limits", "_usage")

    def __init__(self, usage: SharedUsage, limits: _Limits, count: int) -> None:
        self._usage = usage
        self._limits = limits
        self._count = count

    def __exit__(self, *_: object) -> None:
        for row, _most in self._limits.in_flight:
            self._usage.add_in_flight(row, -self._count)


def _both(own: _Limits, total: _Limits) -> _Limits:
    return _Limits(
        own.conversations + total.conversations,
        own.tokens + total.tokens,
        own.in_flight + total.in_flight,
    )
