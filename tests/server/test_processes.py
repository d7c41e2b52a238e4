"""Several gateway processes: one traffic file, one port, one engine's limit."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from guard_server.routing.limiter import ConcurrencyLimiter
from guard_server.telemetry import worker_status as status
from guard_server.telemetry.worker_status import WorkerStatus
from tests.server.conftest import TinyServe
from tests.support.commands import Running, start_gateway
from tests.support.gateway import Client, connect
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine, until
from tests.support.two_slots import TrafficFile, traffic_file

pytestmark = pytest.mark.slow

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]


@contextmanager
def processes(file: TrafficFile, count: int, port: int) -> Iterator[list[Running]]:
    directory = file.path.parent
    (directory / "states").mkdir()
    settings = {"traffic": file.path, "status": directory / "states", "port": port}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                start_gateway(directory / f"{number}.txt", **settings, reuse_port=True)
            )
            for number in range(count)
        ]


def statuses(file: TrafficFile) -> list[WorkerStatus]:
    return list(status.read(file.path.parent / "states"))


async def answered_by(port: int) -> set[str]:
    """Each call on a connection of its own, so that every process gets some."""

    async def call() -> str:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            return str((await Client(channel).judge("Q")).model.slot)

    return set(await asyncio.gather(*(call() for _ in range(24))))


async def test_two_processes_follow_one_file_and_share_the_limit(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with fake_engine(agree) as blue, fake_engine(agree) as green:
        file = traffic_file(tmp_path, write_tiny_slot, blue=blue.port, green=green.port)
        port = free_port()
        with processes(file, 2, port) as running:
            await until(
                lambda: (
                    [s.slots["blue"].ready and s.slots["green"].ready for s in statuses(file)]
                    == [True, True]
                ),
                timeout=30,
            )
            assert {worker.pid for worker in statuses(file)} == {p.pid for p in running}
            assert await answered_by(port) == {"blue"}
            file.write({"blue": 0, "green": 100})
            await until(lambda: [s.generation for s in statuses(file)] == [1, 1])
            assert await answered_by(port) == {"green"}
            await until(lambda: [s.slots["green"].limit for s in by_pid(file)] == [17, 16])
            # A request of each is in flight when one of them is killed.
            running[0].signal(signal.SIGKILL)
            await until(lambda: [s.slots["green"].limit for s in statuses(file)] == [33])
            assert await answered_by(port) == {"green"}
            running[1].signal(signal.SIGTERM)
            assert await running[1].wait(15) == 0
            assert not statuses(file)


async def test_a_clock_that_is_moved_makes_no_process_look_dead(
    tmp_path: Path, tiny_serve: TinyServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "states"
    async with tiny_serve(status=directory):
        await until(lambda: len(list(status.read(directory))) == 1)
        monkeypatch.setattr(time, "time", lambda: time.monotonic() + 1e6)
        assert list(status.read(directory))
        shutil.rmtree(directory)  # lost, it is made again
        await until(lambda: directory.exists() and bool(list(status.read(directory))))


def by_pid(file: TrafficFile) -> list[WorkerStatus]:
    return sorted(statuses(file), key=lambda worker: str(worker.pid))


async def test_a_stub_is_loaded_again_by_one_of_them(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    dead = "Stub process 'x' is not healthy."
    async with fake_engine(agree) as blue:
        file = traffic_file(tmp_path, write_tiny_slot, blue=blue.port)
        port = free_port()
        with processes(file, 2, port):
            both = [True, True]
            await until(lambda: [s.slots["blue"].ready for s in statuses(file)] == both, timeout=30)
            blue.answer = lambda asked: agree(asked) if blue.reloads else dead

            async def fails() -> None:
                async with connect(port) as client:
                    try:
                        await client.judge("Q")
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE

            while not blue.reloads:
                await asyncio.gather(*(fails() for _ in range(8)))
            await until(lambda: len(blue.reloads) == 2)
            await until(lambda: [s.slots["blue"].ready for s in statuses(file)] == both, timeout=30)
            await asyncio.gather(*(fails() for _ in range(8)))  # they don't any more
            assert blue.reloads == ["unload", "load"]


async def test_the_limit_can_fall_and_rise() -> None:
    limiter = ConcurrencyLimiter(4, queue_ratio=10)
    taken: list[int] = []
    leave = [asyncio.Event() for _ in range(8)]

    async def take(number: int) -> None:
        async with limiter.permit():
            taken.append(number)
            await leave[number].wait()

    async def settled() -> list[int]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return taken

    tasks = [asyncio.create_task(take(number)) for number in range(8)]
    assert await settled() == [0, 1, 2, 3]
    limiter.resize(2)
    leave[0].set()
    leave[1].set()
    await asyncio.sleep(0)
    assert await settled() == [0, 1, 2, 3]
    leave[2].set()
    await asyncio.sleep(0)
    assert await settled() == [0, 1, 2, 3, 4]
    limiter.resize(4)
    assert await settled() == [0, 1, 2, 3, 4, 5, 6]
    tasks[7].cancel()
    for event in leave:
        event.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.has_capacity
    assert 7 not in taken


def test_a_garbage_collection_leaves_out_what_the_imports_made(tmp_path: Path) -> None:
    run = "import runpy; runpy.run_module('guard_server', run_name='__main__')"
    count = "import atexit, gc; atexit.register(lambda: print('left:', len(gc.get_objects())))"
    no_slot = {"GUARD_SLOT": str(tmp_path), "GUARD_TRITON": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", f"{count}; {run}"],
        env={**os.environ, **no_slot},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert int(done.stdout.rpartition("left:")[2]) < 10_000  # of 80,000: 5 ms, not 40
