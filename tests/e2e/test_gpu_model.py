"""A GPU's slot on a machine that is not what it was built for, and GPU builds that can't begin."""

from pathlib import Path
from typing import Any

import pytest

from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.errors import SlotInvalid
from guard_core.slot.gpu_host import Container, MachineUnfit, check_machine, read_machine
from guard_core.slot.manifest import Manifest
from tests.support.commands import guard
from tests.support.ports import free_port
from tests.support.stand_ins.tensorrt_llm import fake_container

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("here", "text"),
    [
        ({"tensorrt_llm": "1.3.0"}, r"for TensorRT-LLM 1\.2\.1 \(here: 1\.3\.0\)"),
        (
            {"gpu": "NVIDIA L4, 8.9"},
            r"compute capability 9\.0 \(here: 8\.9\).* NVIDIA L4\. Rebuild",
        ),
    ],
)
def test_an_engine_for_another_machine_is_not_loaded(
    gpu_slot: Path, tmp_path: Path, here: dict[str, str], text: str
) -> None:
    ports: Any = {"grpc_port": free_port(), "metrics_port": free_port()}
    container = fake_container(tmp_path, **here)
    with pytest.raises(SlotInvalid, match=text) as caught:
        TritonProcess(gpu_slot, log=tmp_path / "log", container=container, **ports).start()
    assert "guard build --engine tensorrt-llm --format fp8 --checkpoint DIR" in str(caught.value)
    assert not (tmp_path / "log").exists()  # Triton never ran
    check_machine(Manifest.load(gpu_slot), read_machine(fake_container(tmp_path / "same")))


def test_no_gpu_and_no_tensorrt_llm(gpu_slot: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineUnfit, match="No NVIDIA GPU can be seen"):
        read_machine(fake_container(tmp_path / "blind", gpu=None))
    with pytest.raises(MachineUnfit, match="TensorRT-LLM is not installed here"):
        read_machine(fake_container(tmp_path / "bare", tensorrt_llm="none"))
    with pytest.raises(MachineUnfit, match="TensorRT-LLM is not installed here"):
        read_machine(Container(trtllm_build=str(tmp_path / "none")))
    done = guard("serve", "--slot", str(gpu_slot), "--port", str(free_port()))
    assert (done.returncode, done.stdout) == (1, "")
    assert "TensorRT-LLM is not installed here" in done.stderr


def test_a_container_without_triton(gpu_slot: Path, tmp_path: Path) -> None:
    ports: Any = {"grpc_port": free_port(), "metrics_port": free_port()}
    container = fake_container(tmp_path)
    if container.tritonserver.exists():
        pytest.skip("this is NVIDIA's container")
    with pytest.raises(TritonFailed):
        TritonProcess(gpu_slot, log=tmp_path / "log", container=container, **ports).start()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine", "tensorrt-llm"], "takes --format fp8, w8a8, w8a16 or bf16"),
        (["--engine", "tensorrt-llm", "--format", "fp8", "--weights", "int8"], "no --weights"),
        (["--format", "fp8"], "go with --engine tensorrt-llm"),
        (["--plan"], "go with --engine tensorrt-llm"),
        (["--json", "report.json"], "go with --engine tensorrt-llm"),
        (
            ["--engine", "tensorrt-llm", "--format", "fp8", "--json", "report.json"],
            "--json needs --against",
        ),
        (
            ["--engine", "tensorrt-llm", "--format", "w8a8", "--kv-cache", "int8"],
            "does not support --kv-cache int8",
        ),
        (["--engine", "tensorrt-llm", "--format", "fp8"], "TensorRT-LLM is not installed here"),
    ],
)
def test_bad_options(options: list[str], text: str, tmp_path: Path) -> None:
    done = guard("build", "--slot", str(tmp_path / "slots" / "green"), *options)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert not (tmp_path / "slots").exists()


def test_a_dry_run_of_a_checkpoint_that_is_not_here(tmp_path: Path) -> None:
    options = ["--engine", "tensorrt-llm", "--format", "w8a16", "--dry-run"]
    where = ["--slot", str(tmp_path / "green"), "--work", str(tmp_path / "work")]
    done = guard("build", *options, *where, "--checkpoint", "Qwen/Qwen3Guard-Gen-4B")
    assert done.returncode == 0, done.stderr
    assert "convert_checkpoint.py --model_dir" in done.stdout
    assert "--use_weight_only --weight_only_precision int8" in done.stdout
    assert "Qwen/Qwen3Guard-Gen-4B" in done.stdout
    assert not list(tmp_path.iterdir())
