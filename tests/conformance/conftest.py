import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conformance.servers import Faults, faults
from tests.support.serving import Served

_BRING = {
    "gcc": "apt-get install gcc libc6-dev",
    "go": "make test",  # which brings it from PyPI
    "javac": "apt-get install default-jdk-headless",
    "mvn": "apt-get install maven",
}
PYTHON = Path(__file__).parents[2] / "clients" / "python"


@pytest.fixture
async def servers(served: Served, tmp_path: Path) -> AsyncIterator[Faults]:
    """One runner's servers: the faulty ones remember what they did."""
    async with faults(tmp_path) as found:
        found.servers["engine"] = f"127.0.0.1:{served.port}"
        yield found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python client as it is installed, with its own stubs: source, wheel, site-packages."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(source)]
    subprocess.run(build, cwd=PYTHON, check=True)
    [archive] = source.iterdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--target", str(site), str(archive)),
        ],
        check=True,
    )
    return site


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """Skips with a word where a program is missing, and fails in CI: there all must run."""

    def check(*programs: str) -> None:
        missing = [program for program in programs if not shutil.which(program)]
        if missing:
            bring = "; ".join(_BRING[program] for program in missing)
            text = f"not on PATH: {', '.join(missing)}. Run on Debian or Ubuntu: {bring}"
            if os.environ.get("CI"):
                pytest.fail(text)
            pytest.skip(text)

    return check
