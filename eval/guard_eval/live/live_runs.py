"""Types the responses of labelled sets to a running server, and keeps what it said of each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from guard_core.conversation import Mode
from guard_eval.errors import EvaluationFailed
from guard_eval.rows import Example
from guard_eval.service import to_contract
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from qwen3guard_client import AsyncClient, GuardError, LiveEvent, request

_STEP_S = 0.05  # between two parts
_HOLDS = (pb.LIVE_STATE_HOLDING, pb.LIVE_STATE_STOPPED)


@dataclass(slots=True)
class LiveRun:
    """One response. Shares are of its bytes."""

    example: Example
    blocked: bool = False  # as a whole
    answer_tokens: int = 0
    stopped: bool = False  # before its end
    held: bool = False  # a beginning was blocked
    cleared: float = 0.0  # the share, before the whole verdict
    held_at: float | None = None  # the share that the first blocked beginning has
    passing: bool = True  # what was judged last before the whole answer was not blocked
    checks: int = 0
    computed_tokens: int = 0
    # What was cleared at which share of the time in which the whole answer is typed.
    steps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.example.messages[-1].content.encode())

    def take(self, event: LiveEvent, time: float) -> None:
        """What one event says, at that share of the time."""
        reply = event.reply
        self.checks = reply.checks
        usage = reply.usage
        self.computed_tokens = usage.prompt_tokens + usage.draft_tokens - usage.reused_tokens
        self.steps.append((time, reply.cleared_bytes / self.size))
        if event.finished:
            return
        self.cleared = reply.cleared_bytes / self.size
        self.passing = reply.state == pb.LIVE_STATE_PASSING
        self.stopped = event.stopped
        if reply.state in _HOLDS and not self.held:
            self.held, self.held_at = True, reply.judged_bytes / self.size


async def run_live(
    examples: Sequence[Example],
    client: AsyncClient,
    *,
    slot: str,
    rate: float,
    in_flight: int,
    done: Callable[[], None],
) -> list[LiveRun]:
    """One run for each response, typed at `rate` characters a second, so many at a time.

    Calls `done` after each. Raises EvaluationFailed if one can't be judged.
    """
    capacity = asyncio.Semaphore(in_flight)

    async def one(example: Example) -> LiveRun:
        async with capacity:
            try:
                run = await _run(example, client, slot, rate)
            except GuardError as error:
                raise EvaluationFailed(
                    f"{example.id} was not judged ({error.code.name}: {error}). A report is about "
                    "all of a set: see to the server, and run the command again."
                ) from None
        done()
        return run

    responses = [one for one in examples if one.mode is Mode.RESPONSE]
    if not responses:
        raise EvaluationFailed("There is no labelled response: --live judges answers.")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(example)) for example in responses]
    return [task.result() for task in tasks]


async def _run(example: Example, client: AsyncClient, slot: str, rate: float) -> LiveRun:
    answer = example.messages[-1].content
    turns = to_contract(example.messages)
    start = pb.LiveStart(request=request(conversation=turns[:-1], slot=slot))
    run = LiveRun(example)
    loop = asyncio.get_running_loop()
    begun, seconds = loop.time(), len(answer) / rate
    async for event in client.live(start, _typed(answer, rate)):
        run.take(event, (loop.time() - begun) / seconds)
    # Afterwards: the engine's cache would have the answer before it is typed.
    whole = await client.moderate(request(conversation=turns, slot=slot))
    turns[-1].content = "x"  # one token, so that the others are the prompt's
    prompt = await client.moderate(request(conversation=turns, slot=slot))
    run.blocked = whole.action == types_pb2.ACTION_BLOCK
    run.answer_tokens = whole.usage.prompt_tokens - prompt.usage.prompt_tokens + 1
    return run


async def _typed(answer: str, rate: float) -> AsyncIterator[str]:
    """In parts, by the clock: what came late is made up for."""
    loop = asyncio.get_running_loop()
    begun, at = loop.time(), 0
    while at < len(answer):
        await asyncio.sleep(_STEP_S)
        end = int((loop.time() - begun) * rate)
        if end > at:
            yield answer[at:end]
            at = end
