"""What another user of the machine gains from a running server: no more than any caller does."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from tritonclient.grpc import service_pb2

from guard_core.slot import traffic
from qwen3guard.v1 import deployment_pb2 as pb
from tests.support.gateway import Client
from tests.support.serving import Served

MEMORY = Path("/dev/shm")
NOBODY = 65534
_T = TypeVar("_T")
TRITON = "/inference.GRPCInferenceService"
DEPLOYMENT = "/qwen3guard.v1.DeploymentService"

# What it tries, by the standard library alone, and what worked.
ATTACKER = """
import json, os, socket, sys
from pathlib import Path
given, gained = json.load(sys.stdin), []
# Not by subprocess: this Python itself may lie where another user can't read.
os.setgroups([])
os.setgid(given["user"])
os.setuid(given["user"])
def attempt(name, work):
    try:
        work()
    except OSError:
        return
    gained.append(name)
def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
sockets = list(given["sockets"])
for pid in given["pids"]:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
    named = dict(word.partition("=")[::2] for word in words if word.startswith("--grpc-"))
    if named:
        sockets.append(named["--grpc-address"].removeprefix("unix:") + ":" + named["--grpc-port"])
    for word in words:
        path = word.rpartition("=")[2]
        if path.startswith("/dev/shm/"):
            attempt(path, lambda: os.listdir(path))
    for name in ("environ", "mem", "fd", "cwd"):
        path = Path(f"/proc/{pid}/{name}")
        attempt(str(path), lambda: os.listdir(path) if path.is_dir() else path.open("rb").read(1))
for path in sockets:
    attempt(path, lambda: connect(path))
for path in map(Path, given["paths"]):
    attempt(str(path), lambda: os.listdir(path) if path.is_dir() else path.open("rb"))
    attempt(f"{path}/new", lambda: (path / "new").open("wb"))
print(json.dumps({"gained": gained, "sockets": len(sockets)}))
"""


def of_server(served: Served) -> list[Path]:
    """All that it has in memory."""
    found = list(MEMORY.glob(f"qwen3guard_{served.pid}_*"))
    ends = {path.name.rpartition("_")[2] for path in found}
    # A Triton's links are made again after its death: another user must not take the name before.
    assert "run" in ends and "links" not in ends
    assert any(path.is_file() for path in found)  # the region of Triton's Python backend
    return found


async def while_it_judges(client: Client, work: asyncio.Future[_T]) -> _T:
    """Asks the server until the work is done."""
    asked = 0
    while not work.done() or not asked:
        await client.judge(f"How do I boil {asked} eggs?")
        asked += 1
    return await work


def listening_ports(pids: set[int]) -> set[int]:
    """The TCP ports that these processes listen on."""
    inodes = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed meanwhile
                inodes.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        if (path := Path("/proc/net", table)).exists()
        for row in path.read_text().splitlines()[1:]
    ]
    ours = [row for row in rows if row[3] == "0A" and row[9] in inodes]
    return {int(row[1].rpartition(":")[2], 16) for row in ours}


async def test_what_it_has_in_memory_is_its_users_alone(served: Served, client: Client) -> None:
    modes = asyncio.to_thread(
        lambda: {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in of_server(served)}
    )
    open_to_others = await while_it_judges(client, asyncio.ensure_future(modes))
    assert not any(open_to_others.values()), open_to_others


async def test_another_user_reads_no_prompt_and_connects_to_nothing(
    served: Served, client: Client
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may start a process of another user")
    control = MEMORY / f"qwen3guard_{os.getpid()}_control"
    control.write_text("open to all, so the test would see it")
    control.chmod(0o644)
    triton, plane = (address.removeprefix("unix:") for address in (served.triton, served.control))
    pids = [served.pid, *served.processes()]
    paths = [str(path) for path in (*of_server(served), control)]
    given = {"user": NOBODY, "sockets": [triton, plane], "pids": pids, "paths": paths}
    attack = asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-S", "-c", ATTACKER],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    try:
        done = await while_it_judges(client, asyncio.ensure_future(attack))
    finally:
        control.unlink()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["gained"] == [str(control)]
    assert found["sockets"] == 3  # Triton's by its command line too


async def test_by_tcp_all_users_get_verdicts_and_metrics_and_nothing_else(served: Served) -> None:
    ports = listening_ports({served.pid, *served.processes()})
    of_triton = served.triton_port + 1
    assert ports == {served.port, served.metrics_port, of_triton}
    load = service_pb2.RepositoryModelLoadRequest(model_name="guard_blue")
    load.parameters["config"].string_param = "{}"
    requests: dict[str, Any] = {
        f"{TRITON}/RepositoryModelLoad": load,
        f"{TRITON}/RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(
            model_name="guard_blue"
        ),
        f"{TRITON}/RepositoryIndex": service_pb2.RepositoryIndexRequest(),
        f"{TRITON}/SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
        f"{DEPLOYMENT}/ListSlots": pb.ListSlotsRequest(),
        f"{DEPLOYMENT}/SetTraffic": pb.SetTrafficRequest(weights={"blue": 1}),
        f"{DEPLOYMENT}/Deploy": pb.DeployRequest(directory="/"),
    }
    before = traffic.load(served.run / traffic.FILE_NAME)
    for port in ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for path, request in requests.items():
                call: Any = channel.unary_unary(path)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request.SerializeToString(), timeout=5)
                wanted = "UNIMPLEMENTED" if port == served.port else "UNAVAILABLE"
                assert caught.value.code().name == wanted, (port, path)
    url = f"http://127.0.0.1:{of_triton}/v2/repository/models/guard_blue/load"
    with pytest.raises(urllib.error.HTTPError, match="405"):
        await asyncio.to_thread(urllib.request.urlopen, url, b"{}", 5)
    url = f"http://127.0.0.1:{of_triton}/v2/models/guard_blue"
    with await asyncio.to_thread(urllib.request.urlopen, url, None, 5) as reply:
        assert not reply.read()
    assert traffic.load(served.run / traffic.FILE_NAME) == before


def test_a_port_left_open_would_be_seen() -> None:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        assert tcp.getsockname()[1] in listening_ports({os.getpid()})
