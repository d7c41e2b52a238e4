"""One call of a load."""

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

OK = "OK"
SHED = "RESOURCE_EXHAUSTED"

# One sequence for the whole process: the number is the request's id on the wire, and requests of
# an earlier run may still be in the engine.
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended. `slot` and `draft_accepted` are of a verdict from the gateway."""

    status: str
    """The name of gRPC's code, such as OK; STREAM_ before it if the whole stream ended so."""
    message: str = ""
    slot: str = ""
    draft_accepted: bool = False


NO_ANSWER = CallResult("NO_ANSWER", "no answer in time")

Send = Callable[[int], Awaitable[CallResult]]
"""Makes the call of a number. Every outcome is a result; an exception ends the load."""


@dataclass(slots=True)
class LoadCall:
    """Times are the event loop's clock, in seconds."""

    due: float
    """When it had to begin. Latency counts from then, so a late generator or server shows."""
    number: int = field(default_factory=lambda: next(_numbers))
    ended: float = math.nan
    result: CallResult = NO_ANSWER

    async def make(self, send: Send) -> None:
        """Makes the call, and keeps how and when it ended."""
        self.result = await send(self.number)
        self.ended = asyncio.get_running_loop().time()

    @property
    def answered(self) -> bool:
        """Whether it has ended; the result of one that has not is NO_ANSWER."""
        return not math.isnan(self.ended)

    @property
    def latency_s(self) -> float:
        """NaN without an answer."""
        return self.ended - self.due

    @property
    def slot(self) -> str:
        """The slot that gave the verdict; empty if there is none."""
        return self.result.slot

    @property
    def error(self) -> str:
        """Status and message; empty if the call gave a verdict."""
        result = self.result
        return "" if result.status == OK else f"{result.status}: {result.message}"

    def in_flight_at(self, time: float) -> bool:
        """Whether it had begun by then and not ended before."""
        return self.due <= time and not (self.answered and self.ended < time)
