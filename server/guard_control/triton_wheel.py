"""Triton's binaries from the nvidia-pytriton wheel, for CPU engines.

Only the binaries are used: the wheel's Python package is never imported.
"""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

# What a CPU engine needs in this environment, and what pip installs it by. No extra brings Triton:
# its wheel's own dependencies are not used, and contradict ours.
_NEEDED = {
    "openvino": ("The CPU engine", "'qwen3guard-server[engine]'"),
    "pytriton": ("Triton", "--no-deps nvidia-pytriton==0.7.0"),  # as in requirements/triton.in
}


class TritonMissing(Exception):
    """A part that a CPU engine needs is not installed; the text has the command that brings it."""


def wheel_directory() -> Path:
    """The wheel's tritonserver directory. Raises TritonMissing."""
    for package, (name, what) in _NEEDED.items():
        if find_spec(package) is None:
            raise TritonMissing(
                f"{name} is not installed: run `{sys.executable} -m pip install {what}`, "
                "then start again."
            )
    spec = find_spec("pytriton")
    return Path(str(spec and spec.origin)).parent / "tritonserver"


def wheel_environment() -> dict[str, str]:
    """The Python backend finds its Python on PATH, and that Python's library by the other."""
    return {
        "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }


def make_backend_directory(directory: Path) -> None:
    """Links the Python backend and its stub, which the wheel keeps apart, into one directory."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = wheel_directory()
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.rmtree(directory, ignore_errors=True)  # left by one that was killed
    backend = directory / "python"
    backend.mkdir(parents=True)
    for path in (*(wheel / "backends" / "python").iterdir(), stub):
        (backend / path.name).symlink_to(path)
