"""TLS to Triton with certificates of both sides, as deploy/kubernetes sets it up: a real Triton."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from ruamel.yaml import YAML
from tritonclient.grpc import service_pb2

from guard_control.triton_wheel import make_backend_directory, wheel_directory, wheel_environment
from guard_core.engine.channel import TritonTls
from guard_server.settings import Settings
from tests.support.commands import guard, start
from tests.support.gateway import gateway
from tests.support.ports import free_port

pytestmark = pytest.mark.triton
KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
MODEL = "guard_blue"


@dataclass(frozen=True)
class Triton:
    """Its address, and the directory of both sides' certificates."""

    target: str
    tls: Path

    def of_gateway(self) -> TritonTls:
        ours = self.tls / "gateway"
        return TritonTls(ours / "ca.crt", ours / "tls.crt", ours / "tls.key")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes, for a Triton on this machine."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    copy = tmp_path_factory.mktemp("kubernetes") / "certificates.sh"
    shutil.copy(KUBERNETES / "certificates.sh", copy)
    subprocess.run([copy], check=True)
    return copy.parent / "tls"


def container() -> Any:
    """Triton's, as the manifest has it."""
    manifest = next(YAML(typ="safe").load_all(KUBERNETES / "triton.yaml"))
    [found] = manifest["spec"]["template"]["spec"]["containers"]
    return found


@pytest.fixture(scope="module")
def triton(
    blue: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """With the manifest's own options, but for paths and ports of this machine."""
    directory, port = tmp_path_factory.mktemp("triton"), free_port()
    make_backend_directory(directory / "backends")
    program, *options = container()["command"]
    assert program == "tritonserver"
    command = [
        wheel_directory() / "bin" / program,
        *(
            option.replace("/slots/blue", str(blue)).replace("/tls/", f"{certificates}/triton/")
            for option in options
        ),
        *(f"--backend-directory={directory / 'backends'}", "--allow-metrics=false"),
        *(f"--grpc-port={port}", "--allow-gpu-metrics=false"),
        "--pinned-memory-pool-byte-size=0",
    ]
    found = Triton(f"localhost:{port}", certificates)
    environment: Any = wheel_environment()
    with start(command, directory / "output.txt", **environment) as running:
        deadline = time.monotonic() + 60
        while not loaded(found.target, found.of_gateway().credentials()):
            assert not running.ended() and time.monotonic() < deadline, running.said()
            time.sleep(0.1)
        yield found


def loaded(target: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether it says so; false if it refuses the caller."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.secure_channel(target, credentials, options)
        if credentials
        else grpc.insecure_channel(target, options)
    ) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady"
        )
        request = service_pb2.ModelReadyRequest(name=MODEL)
        try:
            answer = call(request.SerializeToString(), timeout=2)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return False
        return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)


async def test_the_gateway_judges_by_it(triton: Triton, blue: Path) -> None:
    tls = triton.of_gateway()
    files: Any = {"triton_tls_ca": tls.ca, "triton_tls_cert": tls.cert, "triton_tls_key": tls.key}
    async with gateway(blue, triton.target, **files) as client:
        await client.until_serving()
        assert (await client.judge("What is a good recipe for lentil soup?")).model.slot == "blue"


async def test_a_peer_without_credentials_gains_nothing(triton: Triton, blue: Path) -> None:
    root, other = (triton.tls / "ca.crt").read_bytes(), trustme.CA()
    stranger = other.issue_cert("guard-gateway")
    of_other = (stranger.private_key_pem.bytes(), stranger.cert_chain_pems[0].bytes())
    for credentials in (
        None,
        grpc.ssl_channel_credentials(root),
        grpc.ssl_channel_credentials(root, *of_other),
    ):
        assert not await asyncio.to_thread(loaded, triton.target, credentials)
    assert await asyncio.to_thread(loaded, triton.target, triton.of_gateway().credentials())


def test_the_contract_is_verified_by_it(triton: Triton, blue: Path) -> None:
    tls = triton.of_gateway()
    words = ["verify", "contract", str(blue), "--triton", triton.target]
    given = ["--tls-ca", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    assert guard(*words, *given).returncode == 0
    part = guard(*words, *given[:2])
    assert part.returncode == 2
    assert "TLS to Triton needs" in part.stderr


def test_the_manifests_probe_asks_it(triton: Triton, blue: Path) -> None:
    """With the paths and the port of this machine."""
    _, _, module, *options = container()["livenessProbe"]["exec"]["command"]
    here = {
        "/slots/blue": str(blue),
        "/tls/": f"{triton.tls}/triton/",
        "localhost:8001": triton.target,
    }
    for there, path in here.items():
        options = [option.replace(there, path) for option in options]

    def probe(*words: str) -> int:
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert probe(*options) == 0
    assert probe(*(option for option in options if "tls" not in option)) == 1


def test_what_the_script_makes_is_for_its_user_alone(certificates: Path) -> None:
    found = [path for path in certificates.rglob("*") if path.is_file()]
    assert {path.name for path in found} == {"ca.crt", "tls.crt", "tls.key"}  # no authority's key
    assert not any(path.stat().st_mode & 0o077 for path in (certificates, *found))


def test_tls_to_triton_is_whole_or_refused(tmp_path: Path) -> None:
    given: Any = {"slot": tmp_path, "triton": "localhost:1", "port": 0}
    with pytest.raises(ValueError, match="GUARD_TRITON_TLS_KEY together"):
        Settings(**given, triton_tls_ca=tmp_path / "ca.pem")
    missing: Any = {
        f"triton_tls_{name}": tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")
    }
    tls = Settings(**given, **missing).triton_tls
    assert tls is not None
    with pytest.raises(OSError, match=f"{tmp_path}/ca.pem can't be read: No such file"):
        tls.credentials()
