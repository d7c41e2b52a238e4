"""Every client passes every case against running servers."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google.rpc.status_pb2

from tests.conformance import plan
from tests.conformance.servers import Faults

PROJECT = Path(__file__).parents[2]
CLIENTS = PROJECT / "clients"
RUNNER = Path(__file__).with_name("runner.py")
PREVIOUS = Path(__file__).with_name("previous")
# Nothing listens there: a client that asked a proxy for loopback would get no answer.
NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
NOT_IN_THREADS = {"the caller cancels a call"}
# They need fields that the frozen contract lacks.
NOT_FROZEN = {
    "the response says which part of a content was judged",
    "without markers there is one judgement and no word of it",
    "a request can have such a content refused, or judged as text",
}


async def conforms(
    command: list[str], directory: Path, servers: Faults, tmp_path: Path, python: str = ""
) -> set[str]:
    """Runs one runner. Gives the names of the cases that did not pass."""
    path = tmp_path / "plan.json"
    passed = await asyncio.to_thread(plan.write, path, servers.servers, servers.authority)
    environment = {**os.environ, "GUARD_CONFORMANCE": str(path), "PYTHONPATH": python, **NO_PROXY}
    process = await asyncio.create_subprocess_exec(*command, cwd=directory, env=environment)
    assert await process.wait() == 0
    # What no caller waits for any more was stopped in the engine.
    stopped = {asked.id for asked in servers.engine.asked if asked.stop}
    assert servers.orders.held
    assert set(servers.orders.held) <= stopped
    expected = {case["name"] for case in plan.cases()}
    assert len(expected) > 25
    return expected - set(json.loads(await asyncio.to_thread(passed.read_text)))


async def test_go(servers: Faults, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("go", "gcc")
    vet = await asyncio.create_subprocess_exec("go", "vet", "./...", cwd=CLIENTS / "go")
    assert await vet.wait() == 0
    command = ["go", "test", "-race", "-count=1", "-v", "."]
    assert await conforms(command, CLIENTS / "go", servers, tmp_path) == set()


async def test_java(servers: Faults, tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mvn", "javac")
    command = ["mvn", "-B", "-q", "test"]
    assert await conforms(command, CLIENTS / "java", servers, tmp_path) == set()


async def test_python_for_threads(servers: Faults, tmp_path: Path, wheel: Path) -> None:
    command = [sys.executable, "-W", "error", str(RUNNER), "sync"]
    assert await conforms(command, tmp_path, servers, tmp_path, str(wheel)) == NOT_IN_THREADS


async def test_python_for_asyncio(servers: Faults, tmp_path: Path, wheel: Path) -> None:
    command = [sys.executable, "-W", "error", str(RUNNER), "aio"]
    assert await conforms(command, tmp_path, servers, tmp_path, str(wheel)) == set()


async def test_python_with_the_frozen_contracts_stubs(servers: Faults, tmp_path: Path) -> None:
    """A client that was built before the contract went on."""
    stubs = tmp_path / "stubs"
    await asyncio.to_thread(generate, PREVIOUS, stubs)
    command = [sys.executable, "-W", "error", str(RUNNER), "aio"]
    path = os.pathsep.join([str(stubs), str(CLIENTS / "python")])
    assert await conforms(command, tmp_path, servers, tmp_path, path) == NOT_FROZEN


def generate(contract: Path, stubs: Path) -> None:
    stubs.mkdir()
    includes = [contract, Path(google.rpc.status_pb2.__file__).parents[2]]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    outputs = [f"--{kind}={stubs}" for kind in ("python_out", "grpc_python_out")]
    protos = [str(path) for path in sorted(contract.rglob("*.proto"))]
    subprocess.run([*command, *outputs, *protos], check=True)
