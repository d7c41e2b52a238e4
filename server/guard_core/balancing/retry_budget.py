"""How many requests are asked a second time: so few that a dying set is not asked twice by all."""

_SHARE = 0.2  # of the requests


class RetryBudget:
    """Filled by a fifth of a retry with each request, and never above the limit of requests
    in flight.

    It is full at first, so all that one lost replica had in flight can be asked elsewhere at once.
    """

    def __init__(self) -> None:
        self._left: float | None = None  # None: full

    def requested(self, limit: float) -> None:
        """A request was asked for the first time; `limit`: of all ready replicas together."""
        if self._left is not None:
            self._left += _SHARE
            if self._left >= limit:
                self._left = None

    def take(self, limit: float) -> bool:
        """Whether one may be asked a second time; then it counts."""
        left = max(1.0, limit) if self._left is None else self._left
        if left < 1:
            return False
        self._left = left - 1
        return True
