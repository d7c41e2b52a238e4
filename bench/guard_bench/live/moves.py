"""Sessions of the client whose slot, engine or gateway goes away at the middle of their answers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from guard_bench.live.live_bench import Conversation, LiveBench, same_verdict, start_of
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.scenarios.triton_kill import triton_pid
from guard_bench.targets.guard_serve import GuardServe, build, serving
from qwen3guard.v1 import deployment_pb2, types_pb2
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import AsyncClient, GuardError, LiveEvent, request

_SESSIONS = 50
_WORKERS = 2
_HALF_S = 3.0  # for each half of an answer
_PARTS = 20  # of each half
_PAUSE_S = 2.0  # between two characters, while it waits
_LEAST = 150  # characters of an answer


@dataclass
class _Session:
    conversation: Conversation
    last: LiveEvent | None = None
    shown: str = ""
    failed: str = ""


async def moves(bench: LiveBench) -> list[LiveOutcome]:
    """By `guard serve` with the tiny guard in two slots of the same weights."""
    blue, green = bench.directory / "blue", bench.directory / "green"
    for slot in (blue, green):
        await asyncio.to_thread(build, slot, "int8")
    outcomes = []
    log = bench.directory / "serve.log"
    async with serving(blue, _WORKERS, log, bench.find_control) as server:

        async def deploy() -> None:
            pause = Duration(seconds=1)
            wanted = deployment_pb2.DeployRequest(
                directory=str(green.resolve()),
                shift=deployment_pb2.Shift(steps=[25, 100], pause=pause),
            )
            async for _ in server.control.Deploy(wanted):
                pass

        async def kill() -> None:
            os.kill(triton_pid((await server.slot("green")).triton), signal.SIGKILL)

        async def stop() -> None:
            os.kill((await server.state()).workers[0].pid, signal.SIGTERM)

        changes: dict[str, Callable[[], Awaitable[None]]] = {
            "swap (guard deploy)": deploy,
            "kill -9 of the engine": kill,
            "a gateway's stop": stop,
        }
        for name, change in changes.items():
            bench.progress(name)
            outcomes.append(await _during(bench, server, name, change))
    return outcomes


async def _during(
    bench: LiveBench, server: GuardServe, name: str, change: Callable[[], Awaitable[None]]
) -> LiveOutcome:
    long = [one for one in bench.answers if len(one[-1].content) >= _LEAST]
    sessions = [_Session(long[n % len(long)]) for n in range(_SESSIONS)]
    changed = asyncio.Event()
    options = [("grpc.use_local_subchannel_pool", 1)]
    clients = [AsyncClient(server.target, insecure=True, options=options) for _ in range(8)]
    tasks = [
        asyncio.create_task(_run(session, clients[number % len(clients)], changed))
        for number, session in enumerate(sessions)
    ]
    try:
        await asyncio.sleep(_HALF_S)
        await change()
        changed.set()
        await asyncio.gather(*tasks)
        right = wrong = 0
        for session in sessions:
            finished, cleared_wrongly = await _found(session, clients[0])
            right += finished
            wrong += cleared_wrongly
    finally:
        for client in clients:
            await client.close()
    lost = [session.failed for session in sessions if session.failed]
    return LiveOutcome(
        *("moves", f"{name}, {_SESSIONS} sessions"),
        "all finals right, none cleared wrongly, none lost",
        f"{right} right, {wrong} cleared wrongly, {len(lost)} lost{': ' * bool(lost)}"
        f"{'; '.join(sorted(set(lost)))}",
        (right, wrong, len(lost)) == (_SESSIONS, 0, 0),
    )


async def _run(session: _Session, client: AsyncClient, changed: asyncio.Event) -> None:
    start = start_of(session.conversation, stop=pb.LiveStop(never=True))
    try:
        async for event in client.live(start, _halves(session.conversation[-1].content, changed)):
            session.last = event
            session.shown += event.text
    except GuardError as error:
        session.failed = f"{error.code.name}: {error}"


async def _halves(answer: str, changed: asyncio.Event) -> AsyncIterator[str]:
    """Half of it, then single characters until the change is made, then the rest."""
    at, middle = 0, len(answer) // 2
    size = middle // _PARTS + 1
    while at < len(answer):
        waits = at >= middle and not changed.is_set()
        end = at + 1 if waits else at + size
        yield answer[at:end]
        at = end
        await asyncio.sleep(_PAUSE_S if waits else _HALF_S / _PARTS)


async def _found(session: _Session, client: AsyncClient) -> tuple[bool, bool]:
    """Whether its end is right, and whether text was cleared that is blocked by itself."""
    if session.last is None or not session.last.finished:
        return False, False
    answer = session.conversation[-1].content
    whole = await client.moderate(request(conversation=[*session.conversation]))
    right = same_verdict(session.last.reply, whole)
    if whole.action != types_pb2.ACTION_BLOCK:
        return right and session.shown == answer, False
    if not session.shown:
        return right, False
    shown = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, content=session.shown)
    beginning = await client.moderate(request(conversation=[*session.conversation[:-1], shown]))
    wrong = beginning.action == types_pb2.ACTION_BLOCK or not answer.startswith(session.shown)
    return right, wrong
