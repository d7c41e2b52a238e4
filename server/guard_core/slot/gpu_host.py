"""GPU and TensorRT-LLM versions of this host, compared with those that an engine needs.

An engine loads only in the TensorRT-LLM that built it, and on the GPU architecture that it was
built for; elsewhere it fails late and obscurely.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Gpu, Manifest

_VERSIONS = """
from importlib.metadata import PackageNotFoundError, version
def first(*names):
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return "none"
print(first("tensorrt_llm"), first("tensorrt", "tensorrt_cu13", "tensorrt_cu12"))
"""
_TIMEOUT_S = 60
_LONGEST_LINE = 4096
_NOT_INSTALLED = (
    "TensorRT-LLM is not installed here. Run this in its container, on a machine with a "
    "GPU: make gpu-build FORMAT=fp8, then make gpu-serve. On a CPU use --engine openvino."
)


class MachineUnfit(SlotInvalid):
    """This machine can't build or run any TensorRT-LLM engine; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Container:
    """Where NVIDIA's container has what is run here.

    Neither the Python that runs this nor /usr/bin/python3 has TensorRT-LLM there: it lies in a
    virtual environment of its own, which `trtllm-build` belongs to.
    """

    trtllm_build: str = "trtllm-build"  # a path, or looked up on PATH
    nvidia_smi: str = "nvidia-smi"
    examples: Path = Path("/app/examples")
    tritonserver: Path = Path("/opt/tritonserver/bin/tritonserver")
    backends: Path = Path("/opt/tritonserver/backends")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a slot's manifest is compared with; versions as the Python packages give them."""

    tensorrt_llm: str
    tensorrt: str
    gpu: Gpu


def find_python(container: Container) -> str:
    """The Python that has TensorRT-LLM: the one that `trtllm-build` names in its first line.

    Raises MachineUnfit.
    """
    script = shutil.which(container.trtllm_build)
    if script is None:
        raise MachineUnfit(_NOT_INSTALLED)
    with Path(script).open("rb") as stream:
        first = stream.readline(_LONGEST_LINE).decode(errors="replace").strip()
    python = first.removeprefix("#!").partition(" ")[0]
    if not first.startswith("#!/") or not Path(python).name.startswith("python"):
        raise MachineUnfit(
            f"The first line of {script} names no Python, but {first!r}: this is not the pinned "
            "container. Run make gpu-build FORMAT=fp8."
        )
    return python


def read_machine(container: Container) -> Machine:
    """Raises MachineUnfit unless TensorRT-LLM and a GPU are here."""
    found = _output([find_python(container), "-c", _VERSIONS]).split()
    if len(found) != 2 or "none" in found:
        raise MachineUnfit(_NOT_INSTALLED)
    return Machine(tensorrt_llm=found[0], tensorrt=found[1], gpu=_gpu(container))


def check_machine(manifest: Manifest, machine: Machine) -> None:
    """Raises SlotInvalid if the slot's engine would not load here, saying what to rebuild."""
    engine = manifest.engine
    capability = engine.gpu.compute_capability if engine.gpu else None
    compared = (
        ("TensorRT-LLM", engine.version, machine.tensorrt_llm),
        ("TensorRT", engine.tensorrt, machine.tensorrt),
        ("compute capability", capability, machine.gpu.compute_capability),
    )
    differing = [
        f"{what} {built} (here: {here})" for what, built, here in compared if built != here
    ]
    if differing:
        source = manifest.model.source
        checkpoint = source.hub_id if source else f"DIR, where {manifest.model.name} is"
        raise SlotInvalid(
            f"The slot's engine was built for {', '.join(differing)}, so it would not load on this "
            f"{machine.gpu.name}. Rebuild it here: guard build --engine tensorrt-llm --format "
            f"{engine.weights} --checkpoint {checkpoint}"
        )


def _gpu(container: Container) -> Gpu:
    query = ["--query-gpu=name,compute_cap", "--format=csv,noheader"]
    lines = _output([container.nvidia_smi, *query]).strip().splitlines()
    name, comma, capability = (lines[0] if lines else "").rpartition(",")
    if not comma:
        raise MachineUnfit(
            "No NVIDIA GPU can be seen here (nvidia-smi names none). Run the container with "
            "--gpus all, on a machine with a GPU and its driver."
        )
    if not re.fullmatch(r"\s*[0-9]+\.[0-9]+\s*", capability):
        raise MachineUnfit(
            f"nvidia-smi gives {name.strip()} no compute capability, but {capability.strip()!r}. "
            "Use a machine whose driver does."
        )
    return Gpu(name=name.strip(), compute_capability=capability.strip())


def _output(command: Sequence[str]) -> str:
    """What a command prints; nothing if it can't be run or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
