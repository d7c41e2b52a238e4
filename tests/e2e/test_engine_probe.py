"""The manifests' probe in a real Triton's container, with a stand-in for the kubelet."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guard_control.host.child_process import children
from guard_control.triton_process import TritonProcess
from tests.support.gateway import gateway
from tests.support.ports import free_port

PROJECT = Path(__file__).parents[2]


class Kubelet:
    """Runs the container's liveness probe, and restarts the container by its threshold."""

    def __init__(self, slot: Path, triton: TritonProcess) -> None:
        manifests = YAML(typ="safe").load_all(PROJECT / "deploy" / "kubernetes" / "triton.yaml")
        [deployment] = [each for each in manifests if each["kind"] == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        probe: dict[str, Any] = container["livenessProbe"]
        python, *words = probe["exec"]["command"]
        assert python == "python"
        self._command = [
            sys.executable,
            *(
                word.replace("/slots/blue", str(slot)).replace("localhost:8001", triton.target)
                for word in words
                if not word.startswith("--tls-")  # test_triton_tls.py has those
            ),
        ]
        self._most_failures = probe["failureThreshold"]
        self._timeout_s = probe["timeoutSeconds"]
        self._triton = triton
        self.failures = 0
        self.said = ""
        self.restarts = 0

    async def probe(self) -> bool:
        """Once; the real one does it every `periodSeconds`."""
        async with asyncio.timeout(self._timeout_s):
            process = await asyncio.create_subprocess_exec(
                *self._command, stderr=asyncio.subprocess.PIPE
            )
            _, said = await process.communicate()
        self.said = said.decode()
        well = process.returncode == 0
        self.failures = 0 if well else self.failures + 1
        if self.failures >= self._most_failures:
            await asyncio.to_thread(self._restart)
        return well

    def _restart(self) -> None:
        self._triton.stop()
        self._triton.start()
        self.failures = 0
        self.restarts += 1


@pytest.mark.triton
async def test_a_dead_engine_is_replaced_by_the_scheduler(blue: Path, tmp_path: Path) -> None:
    """Two gateways that share no lock leave it alone."""
    triton = TritonProcess(
        blue, grpc_port=free_port(), metrics_port=free_port(), log=tmp_path / "triton.log"
    )
    with triton:
        kubelet = Kubelet(blue, triton)
        async with gateway(blue, triton.target) as one, gateway(blue, triton.target) as other:
            await asyncio.gather(one.until_serving(), other.until_serving())
            assert await kubelet.probe(), kubelet.said
            assert triton.pid is not None
            [stub] = children(triton.pid)
            os.kill(stub, signal.SIGKILL)
            await asyncio.gather(one.judge("Q"), other.judge("Q"), return_exceptions=True)
            assert not await one.serving()
            assert not await other.serving()
            await asyncio.sleep(3)  # a gateway would have had it loaded again by now
            assert not await kubelet.probe()
            assert "died" in kubelet.said
            assert not await kubelet.probe()
            assert kubelet.restarts == 1
            await asyncio.gather(one.until_serving(), other.until_serving())
            assert await kubelet.probe(), kubelet.said
            assert await one.judge("Q")
            assert await other.judge("Q")
