"""Starts a worker process and exchanges tasks and results with it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

_PRELOADED = ("libiomp5.so", "libtcmalloc_minimal.so.4")  # as vLLM's manual for CPUs requires


class Worker:
    """A worker process: `command`, run in `directory`."""

    def __init__(self, command: list[str], directory: Path, log: Path, preload: bool) -> None:
        """Returns once the engine is loaded. Raises RuntimeError if the process ends before."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
        found = _libraries(Path(command[0]).parents[1]) if preload else []
        if found:
            environment["LD_PRELOAD"] = ":".join(found)
        self._log = log
        self._rss: list[int] = []
        self._preloaded = [Path(path).name for path in found]
        begun = time.monotonic()
        with log.open("w") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        self._stdin = cast(IO[str], self._process.stdin)
        self._stdout = cast(IO[str], self._process.stdout)
        self._versions = self._answer()["versions"]
        self._load_s = time.monotonic() - begun

    @property
    def pid(self) -> int:
        return self._process.pid

    def measure(self, task: dict[str, Any]) -> dict[str, Any]:
        """Sends a task and returns the worker's result. Raises RuntimeError if the worker died."""
        self._stdin.write(json.dumps(task) + "\n")
        self._stdin.flush()
        return self._answer()

    def facts(self) -> dict[str, Any]:
        """Versions, load time, and resident memory: with the engine loaded, and at the end."""
        return {
            "versions": self._versions,
            "preloaded": self._preloaded,
            "load_s": self._load_s,
            "rss_mib_loaded": self._rss[0],
            "rss_mib_end": self._rss[-1],
        }

    def close(self) -> None:
        """Ends the worker."""
        self._stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended; {self._log} says why.")
        answer: dict[str, Any] = json.loads(line)
        self._rss.append(answer["rss_mib"])
        return answer


def _libraries(environment: Path) -> list[str]:
    """The libraries of _PRELOADED that the environment or the system has."""
    folders = [environment / "lib", *sorted(Path("/usr/lib").glob("*-linux-gnu"))]
    found = []
    for name in _PRELOADED:
        paths = [folder / name for folder in folders if (folder / name).exists()]
        if paths:
            found.append(str(paths[0]))
        else:
            sys.stderr.write(f"{name} is not installed: vLLM runs without it\n")
    return found
