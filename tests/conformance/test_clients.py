"""Every client passes every case against running servers."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import google.rpc.status_pb2
import grpc
import pytest

from qwen3guard.v1.moderation_pb2 import StreamModerateRequest
from tests.conformance import plan
from tests.conformance.servers import Counted, Faults, counted, plain
from tests.support.gateway import Client, ask
from tests.support.stand_ins.fake_engine import until

PROJECT = Path(__file__).parents[2]
CLIENTS = PROJECT / "clients"
GO = ["go", "test", "-race", "-count=1", "-v", "."]
MAVEN = [
    *("mvn", "-B", "-q", "test"),
    "-DargLine=-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9",  # Java's own way to name a proxy
]
PYTHON = [sys.executable, "-W", "error", str(Path(__file__).with_name("runner.py"))]
PREVIOUS = Path(__file__).with_name("previous")
# Nothing listens there: a client that asked a proxy for loopback would get no answer.
NO_PROXY = dict.fromkeys(
    ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
)
_LONGEST_S = 600  # the quiet streams take 200 s
NOT_IN_THREADS = {"the caller cancels a call"}
# They need fields that the frozen contract lacks.
NOT_FROZEN = {
    "the response says which part of a content was judged",
    "without markers there is one judgement and no word of it",
    "a request can have such a content refused, or judged as text",
    *(case["name"] for case in plan.cases() if case["call"] == "live"),
}


async def run(command: list[str], directory: Path, written: Path, python: str = "") -> None:
    """Runs one runner on the plan that was written."""
    environment = {**os.environ, "GUARD_CONFORMANCE": str(written), "PYTHONPATH": python}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=environment | NO_PROXY, start_new_session=True
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:  # it hangs, or this test is cut off
            os.killpg(process.pid, signal.SIGKILL)


async def conforms(
    command: list[str], directory: Path, servers: Faults, tmp_path: Path, python: str = ""
) -> set[str]:
    """Runs one runner. Gives the names of the cases that did not pass."""
    path = tmp_path / "plan.json"
    passed = await asyncio.to_thread(
        plan.write, path, servers.servers, servers.authority, keys=servers.keys
    )
    await run(command, directory, path, python)
    # What no caller waits for any more was stopped in the engine.
    stopped = {asked.id for asked in servers.engine.asked if asked.stop}
    assert servers.orders.held
    assert set(servers.orders.held) <= stopped
    expected = {case["name"] for case in plan.cases()}
    assert len(expected) > 25
    return expected - set(json.loads(await asyncio.to_thread(passed.read_text)))


Opened = dict[str, Counted]
Quiet = dict[str, "asyncio.Task[set[str]]"]
QUIET = {"go": ["go", "gcc"], "java": ["mvn", "javac"], "threads": [], "asyncio": []}


@pytest.fixture(scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opened]:
    """A port of its own for each client, before one server."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(plain(tmp_path_factory.mktemp("quiet")))
        names = (*QUIET, "pinging")
        yield {name: await stack.enter_async_context(counted(server.port)) for name in names}


@pytest.fixture(scope="module")
async def quiet(
    opened: Opened, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Quiet]:
    """The quiet stream of each client that this machine can run. It ends with what passed."""
    tasks = {
        name: asyncio.create_task(
            stay_quiet(name, opened[name], tmp_path_factory.mktemp(name), wheel)
        )
        for name, programs in QUIET.items()
        if all(shutil.which(program) for program in programs)
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def stay_quiet(client: str, server: Counted, directory: Path, wheel: Path) -> set[str]:
    """Runs the cases that only wait. Gives the names of those that passed."""
    written = directory / "plan.json"
    servers = {"quiet": server.address}
    passed = await asyncio.to_thread(plan.write, written, servers, directory, plan.QUIET)
    match client:
        case "go":
            await run([*GO, "-run=TestConformance"], CLIENTS / "go", written)
        case "java":  # Maven builds in the folder of its project, where others may be building
            await asyncio.to_thread(
                shutil.copytree, CLIENTS / "java", directory / "java", ignore=lambda *_: ["target"]
            )
            command = [*MAVEN, "-Dtest=ConformanceTest"]
            await run(command, directory / "java", written)
        case "threads":
            await run([*PYTHON, "sync"], directory, written, str(wheel))
        case "asyncio":
            await run([*PYTHON, "aio"], directory, written, str(wheel))
    return set(json.loads(await asyncio.to_thread(passed.read_text)))


@pytest.mark.clients
async def test_quiet_streams_begin(opened: Opened, quiet: Quiet) -> None:
    """What they wait for is at the end of this file: its other tests run meanwhile."""

    def ended() -> list[str]:
        return [name for name in quiet if quiet[name].done()]

    await until(lambda: all(opened[name].opened for name in quiet) or bool(ended()), timeout=300)
    assert not ended()


async def test_go(servers: Faults, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("go", "gcc")
    vet = await asyncio.create_subprocess_exec("go", "vet", "./...", cwd=CLIENTS / "go")
    assert await vet.wait() == 0
    assert await conforms(GO, CLIENTS / "go", servers, tmp_path) == set()


async def test_java(servers: Faults, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mvn", "javac")
    assert await conforms(MAVEN, CLIENTS / "java", servers, tmp_path) == set()


async def test_python_for_threads(servers: Faults, tmp_path: Path, wheel: Path) -> None:
    command = [*PYTHON, "sync"]
    assert await conforms(command, tmp_path, servers, tmp_path, str(wheel)) == NOT_IN_THREADS


async def test_python_for_asyncio(servers: Faults, tmp_path: Path, wheel: Path) -> None:
    command = [*PYTHON, "aio"]
    assert await conforms(command, tmp_path, servers, tmp_path, str(wheel)) == set()


async def test_python_with_the_frozen_contracts_stubs(servers: Faults, tmp_path: Path) -> None:
    """A client that was built before the contract went on."""
    stubs = tmp_path / "stubs"
    await asyncio.to_thread(generate, PREVIOUS, stubs)
    command = [*PYTHON, "aio"]
    path = os.pathsep.join([str(stubs), str(CLIENTS / "python")])
    assert await conforms(command, tmp_path, servers, tmp_path, path) == NOT_FROZEN


def generate(contract: Path, stubs: Path) -> None:
    stubs.mkdir()
    includes = [contract, Path(google.rpc.status_pb2.__file__).parents[2]]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    outputs = [f"--{kind}={stubs}" for kind in ("python_out", "grpc_python_out")]
    protos = [str(path) for path in sorted(contract.rglob("*.proto"))]
    subprocess.run([*command, *outputs, *protos], check=True)


@pytest.mark.slow
async def test_a_stream_may_be_pinged_every_ten_seconds(opened: Opened) -> None:
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(opened["pinging"].address, options) as channel:
        stream = Client(channel).stub.StreamModerate()
        for number, seconds in enumerate((0, 75)):
            await asyncio.sleep(seconds)
            await stream.write(StreamModerateRequest(id=str(number), request=ask("Q")))
            assert (await stream.read()).response.action
        await stream.done_writing()


@pytest.mark.slow
@pytest.mark.parametrize("client", QUIET)
async def test_a_quiet_stream_outlives_165_s(
    client: str, opened: Opened, quiet: Quiet, needs: Callable[..., None]
) -> None:
    """On its first connection: a client would open another one without a word."""
    needs(*QUIET[client])
    assert await quiet[client] == {case["name"] for case in plan.cases(plan.QUIET)}
    assert opened[client].opened == 1
