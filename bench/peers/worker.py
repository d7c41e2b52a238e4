"""A worker: one engine in one process, which gets its tasks as JSON lines. No dependencies."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_TOKENS = 2048
"""The limit of every engine: prompt and output of one request."""
SAFE, UNSAFE = "safe", "unsafe"
TURNS = 3
"""A measurement counts at least so many verdicts per request in flight, however long that takes.
Requests that begin together end together, so fewer would say little about the rate."""
OUTPUT_TOKENS = {SAFE: 8, UNSAFE: 12}
"""Tokens that an engine without drafts writes for one verdict, including the end token."""


@dataclass(frozen=True, slots=True)
class Task:
    """One bounded measurement: a closed loop of verdicts on unique conversations."""

    kind: str
    in_flight: int
    seconds: float
    """The least duration of the measurement."""
    prompts: list[list[int]]
    """Whole prompts, in the order to send them."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of one task, without the first `in_flight` verdicts, which are warm-up."""

    verdicts: int
    seconds: float
    p50_s: float
    """Median latency of a verdict, from the request to the complete output."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The token ids that all engines get, and the model's directory."""

    checkpoint: Path
    kv_mib: int
    prefix: list[int]
    tail: list[int]
    draft: list[int]
    conversations: list[list[int]]

    @classmethod
    def load(cls, path: Path) -> "Workload":
        raw = json.loads(path.read_bytes())
        return cls(**{**raw, "checkpoint": Path(raw["checkpoint"])})

    def save(self, path: Path) -> None:
        """Writes the JSON that `load` reads in each engine's process."""
        path.write_text(json.dumps({**asdict(self), "checkpoint": str(self.checkpoint)}))

    def prompts(self, first: int) -> Iterator[list[int]]:
        for conversation in self.conversations[first:]:
            yield [*self.prefix, *conversation, *self.tail]


def serve(
    load: Callable[[Workload], Callable[[Task], TaskResult]], versions: dict[str, str]
) -> None:
    """Loads the engine for the workload file of the first argument, then runs tasks.

    Each line of standard input is a task, with the index of its first conversation and the number
    that it may use. Each line of standard output is a result, with this process's memory. Ends at
    the end of the input.
    """
    workload = Workload.load(Path(sys.argv[1]))
    # Output of libraries goes to standard error, so that standard output has only the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps({**fields, "rss_mib": rss_mib()}) + "\n")
        answers.flush()

    measure = load(workload)
    answer(versions=versions)
    for line in sys.stdin:
        fields = json.loads(line)
        prompts = list(workload.prompts(fields["first"]))[: fields["count"]]
        task = Task(fields["kind"], fields["in_flight"], fields["seconds"], prompts)
        answer(**asdict(measure(task)))


def rss_mib() -> int:
    """Resident memory of this process, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
