"""A replica: an engine that computes in steps, with a KV cache of conversations."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

BLOCK_TOKENS = 32


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """One turn of a conversation. Times are seconds of the simulation."""

    conversation: int
    tokens: int  # of its prompt
    earlier_tokens: int  # of these, those of the turn before
    arrives: float
    gateway: int


@dataclass(slots=True, eq=False)
class EngineCall:
    """A request at one replica; `done` gets it with its times, or with `failed`."""

    request: SimulatedRequest
    sent: float
    done: "Callable[[EngineCall], None]"
    scheduled: float = 0.0
    step_s: float = 0.0
    computed: int = 0
    failed: bool = False
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class SimulatedReplica:
    """Computes a batch of what waits, then the next one: a verdict is one step."""

    name: str
    schedule: Callable[[float, Callable[[], None]], None]  # after so many seconds
    clock: Callable[[], float]
    speed: float = 1.0
    concurrency_limit: int = 64
    tokens_per_s: float = 154_000  # 600 requests/s of 257 tokens
    step_tokens: int = 2048  # a step takes no more, but one request at least
    least_step_s: float = 0.01
    kv_tokens: int = 400_000
    dead: bool = False
    hung: bool = False
    served: int = 0
    waits: list[float] = field(default_factory=list)
    _waiting: deque[EngineCall] = field(default_factory=deque)
    _running: list[EngineCall] = field(default_factory=list)
    _known: OrderedDict[int, int] = field(default_factory=OrderedDict)  # by conversation
    _known_tokens: int = 0

    def ask(self, call: EngineCall) -> None:
        if self.dead:
            self._fail([call])
            return
        self._waiting.append(call)
        if not self._running:
            self._step()

    def kill(self) -> None:
        """All that it has fails, and so does what it is asked from now on."""
        self.dead = True
        lost = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        self._known.clear()
        self._known_tokens = 0
        self._fail(lost)

    def _fail(self, calls: list[EngineCall]) -> None:
        for call in calls:
            call.failed = True
            self.schedule(0.0002, lambda call=call: call.done(call))  # type: ignore[misc]

    def _step(self) -> None:
        batch: list[EngineCall] = []
        tokens = 0
        while self._waiting and len(batch) < self.concurrency_limit:
            call = self._waiting.popleft()
            if call.abandoned:
                continue
            call.scheduled = self.clock()
            call.computed = self._compute(call.request)
            tokens += call.computed
            batch.append(call)
            if tokens >= self.step_tokens:
                break
        if not batch:
            return
        self._running = batch
        step_s = max(self.least_step_s, tokens / self.tokens_per_s) / self.speed
        for call in batch:
            call.step_s = step_s
        self.schedule(step_s, lambda: self._end(batch))

    def _end(self, batch: list[EngineCall]) -> None:
        if batch is not self._running or self.hung:
            return
        self._running = []
        self._step()  # with what waits: what the answers bring comes too late for it
        for call in batch:
            self.served += 1
            self.waits.append(call.scheduled - call.sent)
            call.done(call)

    def _compute(self, request: SimulatedRequest) -> int:
        """The tokens that no cached block covers. Least recently used conversations go first."""
        known = self._known.pop(request.conversation, 0)
        reused = min(known, request.tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        self._known[request.conversation] = request.tokens
        self._known_tokens += request.tokens - known
        while self._known_tokens > self.kv_tokens:
            _, gone = self._known.popitem(last=False)
            self._known_tokens -= gone
        return request.tokens - reused


class SimulatedNullEngine(SimulatedReplica):
    """As the null engine of `guard bench replicas`: so many at a time, each for the same time."""

    def ask(self, call: EngineCall) -> None:
        self._waiting.append(call)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self.concurrency_limit:
            call = self._waiting.popleft()
            call.scheduled, call.computed = self.clock(), call.request.tokens
            call.step_s = self.least_step_s / self.speed
            self._running.append(call)
            self.schedule(call.step_s, lambda call=call: self._answer(call))  # type: ignore[misc]

    def _answer(self, call: EngineCall) -> None:
        self._running.remove(call)
        self._begin()
        self.served += 1
        self.waits.append(call.scheduled - call.sent)
        call.done(call)
