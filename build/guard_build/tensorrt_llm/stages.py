"""Build stages: each fills a directory, and is skipped while its inputs are the same.

A stage works in NAME.partial, which is renamed at the end. So a stage that failed or was stopped
leaves nothing that a later run could take for complete, and earlier stages are kept.
"""

import hashlib
import json
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from guard_build.errors import BuildFailed, is_full, reason
from guard_build.progress import Progress
from guard_build.tensorrt_llm.commands import Command

_RECORD = "stage.json"
_LOG_TAIL_LINES = 15
# Of the lines before the tail: ModelOpt names a cause only in a warning, on its second line.
_WARNING_LINES, _LONGEST_WARNING = 12, 4
_FULL_BYTES = 1 << 28  # if a command fails with less free space, the full disk is the cause


class StagePaths:
    """Where the results of a build's stages are kept, and their logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, stage: str) -> Path:
        return self.directory / stage

    def partial(self, stage: str) -> Path:
        return self.directory / f"{stage}.partial"

    def log(self, stage: str) -> Path:
        return self.directory / "logs" / f"{stage}.log"


class Workspace(StagePaths):
    """Runs a build's stages."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        super().__init__(directory)
        self._progress = progress

    def stage(self, name: str, inputs: Mapping[str, object], fill: Callable[[Path], None]) -> Path:
        """Runs a stage, unless its result for the same `inputs` exists. Returns its directory.

        `fill` gets an empty directory to fill. `inputs` is everything that decides the result, and
        must be valid JSON. Raises BuildFailed.
        """
        done, partial = self.path(name), self.partial(name)
        key = _key(inputs)
        self._progress(name, 0, 1)
        if not _is_complete(done, key):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                fill(partial)
                record = {"inputs": key, "files": _files(partial)}
                # A link to a file of this name would be written through, into the checkpoint.
                (partial / _RECORD).unlink(missing_ok=True)
                (partial / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
                shutil.rmtree(done, ignore_errors=True)
                partial.rename(done)
            except OSError as error:
                raise self._failed(name, error) from error
        self._progress(name, 1, 1)
        return done

    def run(self, stage: str, command: Command) -> None:
        """Runs a stage's command with its output in the stage's log. Raises BuildFailed."""
        log = self.log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as stream:
                done = subprocess.run(  # noqa: S603 - our own command
                    command.line,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    check=False,
                )
        except FileNotFoundError:
            raise BuildFailed(
                f"{command.program[0]} does not exist: this is not the pinned container. "
                "Run make gpu-build FORMAT=fp8."
            ) from None
        if done.returncode:
            self._check_disk()
            raise BuildFailed(
                f"{command.tool} failed with exit code {done.returncode}. {_end_of(log)}\n"
                "Earlier stages are kept: fix the cause and run the same command again."
            )

    def _failed(self, stage: str, error: OSError) -> BuildFailed:
        if is_full(error):
            return self._full()
        return BuildFailed(
            f"Stage {stage} failed in {self.directory} ({reason(error)}). Correct that and run the "
            "same command again: finished stages are kept."
        )

    def _check_disk(self) -> None:
        if shutil.disk_usage(self.directory).free < _FULL_BYTES:
            raise self._full()

    def _full(self) -> BuildFailed:
        return BuildFailed(
            f"The disk that holds {self.directory} is full. Free some space, or choose a directory "
            "on another disk with --work, and run the same command again: finished stages are kept."
        )


def _end_of(log: Path) -> str:
    """The last lines of a log, and the last warnings before them."""
    tail: deque[str] = deque(maxlen=_LOG_TAIL_LINES)
    warnings: deque[str] = deque(maxlen=_WARNING_LINES)
    more = 0  # lines that the newest warning may still have
    with log.open(errors="replace") as lines:
        for line in lines:
            if len(tail) == _LOG_TAIL_LINES:
                earlier = tail[0]
                # Python ends a warning with an indented line of the code that gave it.
                is_text = not earlier.startswith("  ")
                more = _LONGEST_WARNING if "warning" in earlier.lower() else more - 1
                if is_text and more > 0:
                    warnings.append(earlier)
                elif not is_text:
                    more = 0
            tail.append(line)
    found = f"Warnings in {log}:\n{''.join(warnings)}" if warnings else ""
    return f"{found}The end of {log}:\n{''.join(tail)}".rstrip()


def _key(inputs: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _files(directory: Path) -> dict[str, int]:
    """Path -> size of a stage's files. The contents follow from the stage's inputs."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in paths
        if path.name != _RECORD
    }


def _is_complete(directory: Path, key: str) -> bool:
    try:
        record = json.loads((directory / _RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(record == {"inputs": key, "files": _files(directory)})
