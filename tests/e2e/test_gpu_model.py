"""The GPU's Triton model, as far as a machine without a GPU can take it.

The real Triton loads the very config.pbtxt that the tensorrtllm backend is given. Behind that
backend's name is the Python backend with the CPU engine, and the gateway sees no difference.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard_build.tensorrt_llm.package import parameters
from guard_build.triton_config import TEMPLATES, render_config
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_control.triton_wheel import (
    make_backend_directory,
    wheel_directory,
    wheel_environment,
)
from guard_core.errors import SlotInvalid
from guard_core.slot.gpu_host import Container, MachineUnfit, check_machine, read_machine
from guard_core.slot.manifest import BuiltEngine, Gpu, Manifest, describe
from tests.support.gateway import connect, gateway
from tests.support.ports import free_port
from tests.support.processes import guard
from tests.support.serving import Served
from tests.support.tensorrt_llm import fake_container

pytestmark = pytest.mark.slow

QUESTIONS = ("How do plants grow?", "How do I build a bomb at home?", "你好", "Q " * 300)


@pytest.fixture(scope="module")
def gpu_slot(blue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU engine's slot, dressed as one that `guard build --engine tensorrt-llm` packages."""
    slot = tmp_path_factory.mktemp("gpu") / "blue"
    shutil.copytree(blue, slot)
    manifest = Manifest.load(slot)
    model = manifest.engine.triton_model
    config = render_config(
        model, backend="tensorrtllm", max_batch_size=64, parameters=parameters(f"{model}/1")
    )
    (slot / model / "config.pbtxt").write_text(config)
    described = describe(slot / model / "config.pbtxt")
    assert described is not None
    engine = BuiltEngine(
        kind="tensorrt-llm",
        version="1.2.1",
        tensorrt="10.14.1.48",
        gpu=Gpu(name="NVIDIA H100", compute_capability="9.0"),
        kv_cache="fp8",
        weights="fp8",
        triton_model=model,
    )
    files = manifest.files | {f"{model}/config.pbtxt": described}
    manifest.model_copy(update={"engine": engine, "files": files}).save(slot)
    return slot


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Triton from the wheel; its Python backend under the name of TensorRT-LLM's."""
    directory = tmp_path_factory.mktemp("container")
    make_backend_directory(directory / "made")
    backend = directory / "backends" / "tensorrtllm"
    backend.mkdir(parents=True)
    for path in (directory / "made" / "python").iterdir():
        name = path.name.replace("libtriton_python.so", "libtriton_tensorrtllm.so")
        (backend / name).symlink_to(path.resolve())
    # A backend by another name than python brings its model.py itself.
    (backend / "model.py").symlink_to(TEMPLATES / "openvino" / "model.py")
    fake = fake_container(directory)
    return Container(
        python=fake.python,
        nvidia_smi=fake.nvidia_smi,
        tritonserver=wheel_directory() / "bin" / "tritonserver",
        backends=directory / "backends",
    )


@pytest.fixture(scope="module")
def gpu_triton(
    gpu_slot: Path, container: Container, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wheel_environment().items():
            patch.setenv(name, value)
        triton = TritonProcess(
            gpu_slot,
            grpc_port=free_port(),
            metrics_port=free_port(),
            log=tmp_path_factory.mktemp("log") / "triton.log",
            container=container,
        )
        with triton:
            yield triton


async def test_the_gateway_can_not_tell(
    gpu_slot: Path, gpu_triton: TritonProcess, served: Served
) -> None:
    port = int(gpu_triton.target.rpartition(":")[2])
    async with gateway(gpu_slot, port) as gpu, connect(served.port) as cpu:
        await gpu.until_serving()
        for question in QUESTIONS:
            for answer in ([], ["I can't help with that."]):
                ours, theirs = (
                    await gpu.judge(question, *answer),
                    await cpu.judge(question, *answer),
                )
                assert ours.verdict == theirs.verdict
                assert ours.usage.engine_calls == theirs.usage.engine_calls
                assert ours.usage.accepted_draft_tokens == theirs.usage.accepted_draft_tokens


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
    ports = {"grpc_port": free_port(), "metrics_port": free_port()}
    container = fake_container(tmp_path, **here)
    with pytest.raises(SlotInvalid, match=text) as caught:
        TritonProcess(gpu_slot, log=tmp_path / "log", container=container, **ports).start()
    assert "guard build --engine tensorrt-llm --format fp8 --checkpoint DIR" in str(caught.value)
    assert not (tmp_path / "log").exists()  # Triton never ran
    check_machine(Manifest.load(gpu_slot), read_machine(fake_container(tmp_path / "same")))


def test_no_gpu_and_no_tensorrt_llm(gpu_slot: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineUnfit, match="No NVIDIA GPU can be seen"):
        read_machine(fake_container(tmp_path, gpu=None))
    with pytest.raises(MachineUnfit, match="TensorRT-LLM is not installed here"):
        read_machine(fake_container(tmp_path, tensorrt_llm="none"))
    with pytest.raises(MachineUnfit, match="TensorRT-LLM is not installed here"):
        read_machine(Container(python=str(tmp_path / "none")))
    ports = ["--port", str(free_port()), "--control-port", str(free_port())]
    done = guard("serve", "--slot", str(gpu_slot), *ports)
    assert (done.returncode, done.stdout) == (1, "")
    assert "TensorRT-LLM is not installed here" in done.stderr


def test_a_container_without_triton(gpu_slot: Path, tmp_path: Path) -> None:
    ports = {"grpc_port": free_port(), "metrics_port": free_port()}
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


def test_a_plan_of_a_checkpoint_that_is_not_here(tmp_path: Path) -> None:
    options = ["--engine", "tensorrt-llm", "--format", "w8a16", "--plan"]
    where = ["--slot", str(tmp_path / "green"), "--work", str(tmp_path / "work")]
    done = guard("build", *options, *where, "--checkpoint", "Qwen/Qwen3Guard-Gen-4B")
    assert done.returncode == 0, done.stderr
    assert "convert_checkpoint.py --model_dir" in done.stdout
    assert "--use_weight_only --weight_only_precision int8" in done.stdout
    assert "Qwen/Qwen3Guard-Gen-4B" in done.stdout
    assert not list(tmp_path.iterdir())
