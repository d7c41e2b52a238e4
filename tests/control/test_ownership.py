"""One owner: a run directory and a Triton's ports belong to one server at a time."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guard_control.host import orphans, shared_memory
from guard_control.host.child_process import ended
from guard_control.host.ownership import PortClaim, PortTaken, owned, run_directory
from tests.support import serving
from tests.support.commands import guard
from tests.support.ports import free_port

WriteSlot = Callable[..., Path]


def serve(slot: Path, port: int, triton_port: int) -> subprocess.CompletedProcess[str]:
    ports = ("--port", str(port), "--triton-port", str(triton_port))
    return guard("serve", "--slot", str(slot), *ports, "--metrics-port", "0")


@pytest.mark.slow
def test_a_second_server_is_refused_before_the_first_listens(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    port = free_port()
    with owned(serving.run_directory(port)):
        done = serve(write_tiny_slot(tmp_path), port, free_port())
    serving.remove_run_directory(port)
    assert done.returncode == 1
    assert "Another `guard serve` runs on this address" in done.stderr


@pytest.mark.slow
def test_a_server_does_not_take_the_triton_port_of_another_one(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    port, claim = free_port(), PortClaim(free_port())
    try:
        done = serve(write_tiny_slot(tmp_path), port, claim.port + 1)
    finally:
        claim.release()
        serving.remove_run_directory(port)
    assert done.returncode == 1
    assert f"Port {claim.port + 1} belongs to a Triton of another server" in done.stderr


def test_a_directory_is_free_again_when_its_owner_was_killed(tmp_path: Path) -> None:
    program = (
        "import time; from pathlib import Path; from guard_control.host.ownership import owned\n"
        f"with owned(Path({str(tmp_path)!r})):\n    print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(OSError, match="choose another --port"), owned(tmp_path):
            pass
        owner.kill()
    with owned(tmp_path):
        pass


def test_another_user_cannot_take_the_lock(tmp_path: Path) -> None:
    """Whoever can open it to read can lock it, and then no server starts."""
    lock = tmp_path / "lock"
    lock.touch(0o644)  # of an earlier version
    for _ in range(2):
        with owned(tmp_path):
            assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        lock.unlink()


def test_servers_of_one_port_number_have_directories_of_their_own(tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "::1", "localhost")
    found = {run_directory(tmp_path, host, 50051) for host in hosts}
    assert len(found) == len(hosts)
    assert not any(":" in path.name for path in found)  # it divides the names in PATH


def test_the_directory_of_an_earlier_version_gets_the_new_name(tmp_path: Path) -> None:
    (tmp_path / "50051").mkdir()
    (tmp_path / "50051" / "traffic.json").write_text("{}")
    directory = run_directory(tmp_path, "127.0.0.1", 50051)
    assert (directory / "traffic.json").exists()
    assert run_directory(tmp_path, "127.0.0.1", 50051) == directory
    assert not (tmp_path / "50051").exists()


def test_a_claim_holds_both_ports_until_it_is_released() -> None:
    claim = PortClaim(free_port())
    for port in (claim.port - 1, claim.port, claim.port + 1):
        with pytest.raises(PortTaken, match="Choose another --triton-port"):
            PortClaim(port)
    claim.release()
    PortClaim(claim.port).release()


def test_nothing_that_another_user_can_make_takes_a_port() -> None:
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as squatter:
        squatter.bind(f"\0qwen3guard-triton-{port}")  # which all users share
        PortClaim(port).release()
    made = shared_memory.DIRECTORY / f"{shared_memory.new_prefix()}port{port}"
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    with made.open("w") as squatted:
        os.chown(made, 65534, 65534)
        fcntl.flock(squatted, fcntl.LOCK_EX)
        PortClaim(port).release()
    made.unlink()


def test_nothing_that_another_user_can_make_keeps_a_server_from_its_memory() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    # By the process's number alone, and by all that is seen of the names before.
    begins = shared_memory.DIRECTORY / f"qwen3guard_{os.getpid()}_"
    with shared_memory.directory() as before:
        guesses = [Path(f"{begins}{number}_run") for number in range(100)] + [before]
        for guess in guesses:
            guess.mkdir(exist_ok=True)
            os.chown(guess, 65534, 65534)
        with shared_memory.directory() as made:
            assert made not in guesses
    for guess in guesses[:-1]:
        guess.rmdir()


def test_a_killed_servers_claim_is_void() -> None:
    """Also where its number is another process's by now."""
    port = free_port()
    left = shared_memory.DIRECTORY / f"{shared_memory.new_prefix()}port{port}"
    left.touch()
    PortClaim(port).release()
    left.unlink()


def test_a_process_whose_first_thread_has_ended_has_not() -> None:
    """A killed gateway kept its port for a moment after it was a zombie."""
    child = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=[60]).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)"  # exit, of this thread alone
    )
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
            time.sleep(0.02)
        assert not ended(process.pid)
        process.kill()
        process.wait()
        assert ended(process.pid)


@pytest.mark.parametrize("stopped", [False, True])
def test_what_a_killed_server_left_is_ended(stopped: bool) -> None:
    """And what a server that runs has is not. The children here do not end by their signal: they
    ignore it, or stand still; one listens on no port, as a stub.
    """
    child = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "stub = subprocess.Popen(['/bin/sleep', '60'])\n"
        "print(os.getpid(), stub.pid, flush=True)\n"
        f"for pid in (stub.pid, os.getpid()) if {stopped} else ():\n"
        "    os.kill(pid, signal.SIGSTOP)\n"
        "time.sleep(60)"
    )
    parent = (
        "import signal, subprocess, sys, time\n"
        "from guard_control.host.child_process import kill_with_parent\n"
        f"command = kill_with_parent([sys.executable, '-c', {child!r}], signal.SIGTERM)\n"
        "subprocess.Popen(command, start_new_session=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pids = set(map(int, server.stdout.readline().split()))
        assert not pids & set(orphans.end())
        assert not any(map(ended, pids))
        server.kill()
        while Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.02)
        assert set(orphans.end()) == pids  # also while nobody has waited for their server
    assert all(map(ended, pids))
    assert orphans.end() == []
