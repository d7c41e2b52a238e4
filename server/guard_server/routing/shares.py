"""How much of a bounded thing a worker's callers hold, such as bytes of requests."""

from typing import TypeVar

from guard_core.errors import Overloaded
from guard_server.routing.caller import Caller, Identity

_RETRY_S = 0.5

K = TypeVar("K")


class Shares:
    """A bound that callers share.

    An identity may have half of it and a connection a quarter, so that neither one caller nor one
    connection can leave nothing to the others.
    """

    def __init__(self, most: int, what: str) -> None:
        """`what` is counted, such as "bytes of requests"."""
        self._most = most
        self._what = what
        self._used = 0
        self._identities: dict[Identity, int] = {}
        self._connections: dict[str, int] = {}

    def take(self, caller: Caller, size: int) -> None:
        """Counts so much until `give_back`. Raises Overloaded if that is more than there may be."""
        of_connection = self._connections.get(caller.connection, 0) + size
        of_identity = self._identities.get(caller.identity, 0) + size
        if of_connection > self._most // 4:
            raise self._too_many("This connection", self._most // 4)
        if of_identity > self._most // 2:
            raise self._too_many("This caller", self._most // 2)
        if self._used + size > self._most:
            raise self._too_many("The server", self._most)
        self._used += size
        self._identities[caller.identity] = of_identity
        self._connections[caller.connection] = of_connection

    def give_back(self, caller: Caller, size: int) -> None:
        """Ends what `take` began."""
        self._used -= size
        _lower(self._identities, caller.identity, size)
        _lower(self._connections, caller.connection, size)

    def _too_many(self, who: str, most: int) -> Overloaded:
        return Overloaded(
            f"Overloaded: {who} has {most} {self._what} at most. Retry after the delay in "
            "RetryInfo.",
            _RETRY_S,
        )


def _lower(counts: dict[K, int], key: K, size: int) -> None:
    left = counts[key] - size
    if left:
        counts[key] = left
    else:
        del counts[key]
