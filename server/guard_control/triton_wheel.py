"""Triton's binaries from the nvidia-pytriton wheel, for CPU engines.

Only the binaries are used: the wheel's Python package is never imported.
"""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path


class TritonMissing(Exception):
    """The wheel is not installed."""


def wheel_directory() -> Path:
    """The wheel's tritonserver directory. Raises TritonMissing."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonMissing("Triton is not installed. Run `make serve`, which installs it.")
    return Path(spec.origin).parent / "tritonserver"


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
