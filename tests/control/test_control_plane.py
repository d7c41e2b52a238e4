"""Who reaches the control plane, and from where a slot may be deployed."""

import os
import socket
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
import trustme

from guard_control.api.deployment_service import DeploymentService
from guard_control.api.listener import ControlTcp, listening
from guard_control.events import Events
from guard_control.fleets.local_fleet import LocalFleet
from guard_control.host import control_socket, shared_memory
from guard_server.tls.certificates import CertificateFiles
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc
from tests.support.commands import guard
from tests.support.ports import free_port
from tests.support.serving import Served

# What is refused reaches no slot.
NO_FLEET = cast(
    LocalFleet,
    SimpleNamespace(events=Events(), operating=lambda *_, **__: nullcontext()),
)
NO_SLOT = pb.DeployRequest(directory="relative")  # refused before the fleet is asked


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def deploying(channel: grpc.aio.Channel, request: pb.DeployRequest) -> str:
    """Why it is refused, as INVALID_ARGUMENT."""
    stub: Any = deployment_pb2_grpc.DeploymentServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Deploy(request):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    return str(caught.value.details())


def test_the_control_plane_of_a_server_is_a_socket_of_its_user(served: Served) -> None:
    path = Path(served.control.removeprefix("unix:"))
    assert permissions(path) == 0o600
    assert permissions(path.parent) == 0o700
    assert len(os.fsencode(path)) <= 107
    assert "Control  a socket of this user" in served.said()
    with socket.socket() as tcp:
        assert tcp.connect_ex(("127.0.0.1", 50052))  # where it was


@pytest.mark.parametrize(
    "options",
    [
        ("--control-port", "50052"),
        ("--control-tls-cert", "cert.pem"),
        ("--control-port", "50052", "--control-tls-cert", "c.pem", "--control-tls-key", "k.pem"),
    ],
)
def test_by_tcp_it_is_refused_without_certificates_of_both_sides(options: tuple[str, ...]) -> None:
    done = guard("serve", "--slot", "nowhere", *options)
    assert done.returncode == 2
    assert "--control-tls-client-ca" in done.stderr


async def test_by_tcp_only_a_certificate_of_the_clients_authority_operates(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost")
    files = {name: tmp_path / f"{name}.pem" for name in ("chain", "key", "client_ca")}
    server.cert_chain_pems[0].write_to_path(files["chain"])
    server.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["client_ca"])
    tcp = ControlTcp("127.0.0.1", free_port(), CertificateFiles(**files))

    def channel(*pair: bytes) -> grpc.aio.Channel:
        root = authority.cert_pem.bytes()
        credentials = grpc.ssl_channel_credentials(root, *pair)
        return grpc.aio.secure_channel(f"localhost:{tcp.port}", credentials)

    def pair(of: trustme.CA) -> tuple[bytes, bytes]:
        issued = of.issue_cert("operator@example.org")
        return issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()

    service = DeploymentService(NO_FLEET, roots=())
    async with listening(service, tmp_path / "control", tcp):
        assert "absolute path" in await deploying(channel(*pair(authority)), NO_SLOT)
        plain = grpc.aio.insecure_channel(f"localhost:{tcp.port}")
        for refused in (channel(), channel(*pair(other)), plain):
            stub: Any = deployment_pb2_grpc.DeploymentServiceStub(refused)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListSlots(pb.ListSlotsRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_is_missing_is_named(tmp_path: Path) -> None:
    options = [
        word
        for name in ("cert", "key", "client-ca")
        for word in (f"--control-tls-{name}", str(tmp_path / f"{name}.pem"))
    ]
    done = guard("serve", "--slot", "nowhere", "--control-port", "50052", *options)
    assert done.returncode == 1
    assert f"Can't read {tmp_path}/cert.pem: No such file" in done.stderr


def test_a_command_finds_its_server_by_the_gateways_address() -> None:
    port = free_port()
    with shared_memory.directory() as one, shared_memory.directory() as two:
        assert control_socket.find("127.0.0.1", port) is None
        control_socket.announce(one, "0.0.0.0", port)
        assert control_socket.find("127.0.0.1", port) == control_socket.path(one)
        assert control_socket.find("127.0.0.1", port + 1) is None
        control_socket.announce(two, "::1", port)
        assert control_socket.find("0.0.0.0", port) == control_socket.path(one)
        assert control_socket.find("::1", port) == control_socket.path(two)
        assert control_socket.find("127.0.0.1", port) is None
        one.chmod(0o755)  # a directory of another user
        if os.geteuid() == 0:
            os.chown(one, 65534, 65534)
            assert control_socket.find("0.0.0.0", port) == control_socket.path(two)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "127.0.0.1:1"], "No `guard serve` of this user runs on 127.0.0.1:1"),
        (["--target", "nowhere"], "HOST:PORT"),
        (["--control", "127.0.0.1:1"], "--tls-ca, --tls-cert and --tls-key"),
    ],
)
def test_a_command_without_its_server_says_what_to_give(options: list[str], said: str) -> None:
    done = guard("slots", *options)
    assert done.returncode
    assert said in " ".join(done.stderr.split())


async def test_a_slot_is_deployed_from_below_the_roots_alone(
    tmp_path: Path, write_tiny_slot: Callable[..., Path]
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for each in (root, elsewhere):
        write_tiny_slot(each)
    (root / "link").symlink_to(elsewhere / "blue")
    (root / "circle").symlink_to(root / "circle")
    service = DeploymentService(NO_FLEET, roots=(root,))
    path = tmp_path / "control"
    async with listening(service, path, None), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        outside = ("elsewhere/blue", "root/link", "root/../elsewhere/blue", "root", "", "root-2/x")
        for directory in outside:
            request = pb.DeployRequest(directory=f"{tmp_path}/{directory}")
            said = await deploying(channel, request)
            assert f"is not below {root}: move the slot there" in said, directory
            assert "--deploy-root" in said
        circle = await deploying(channel, pb.DeployRequest(directory=f"{root}/circle"))
        assert "can't be read" in circle or "circle" in circle
        # What is below goes on to the next check.
        file = await deploying(channel, pb.DeployRequest(directory=f"{root}/blue/manifest.json"))
        assert "is no name for a slot" in file
