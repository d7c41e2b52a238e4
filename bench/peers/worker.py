"""A worker: one engine in one process, told what to measure by lines of JSON. No dependencies."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_TOKENS = 2048
"""Prompt and output of one request; no engine is given room for more."""
SAFE, UNSAFE = "safe", "unsafe"
TURNS = 3
"""A measurement counts at least so many verdicts for each one in flight, whatever time it takes:
those begun together end together, so that fewer tell little of the rate."""
OUTPUT_TOKENS = {SAFE: 8, UNSAFE: 12}
"""What an engine without drafts writes for one verdict, its end token included."""


@dataclass(frozen=True, slots=True)
class Task:
    """One bounded measurement: a closed loop of verdicts on unique conversations."""

    kind: str
    in_flight: int
    seconds: float
    """To measure for, at least."""
    prompts: list[list[int]]
    """Whole prompts, in the order in which they are to be sent."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one task gave, after the first `in_flight` verdicts, which are warm-up."""

    verdicts: int
    seconds: float
    p50_s: float
    """The median verdict, from its sending to its whole answer."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Token ids that all engines get, and where the model lies."""

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
        """Writes JSON, which `load` reads in each engine's process."""
        path.write_text(json.dumps({**asdict(self), "checkpoint": str(self.checkpoint)}))

    def prompts(self, first: int) -> Iterator[list[int]]:
        for conversation in self.conversations[first:]:
            yield [*self.prefix, *conversation, *self.tail]


def serve(load: Callable[[Workload], Callable[[Task], Sample]], versions: dict[str, str]) -> None:
    """Loads the engine for the workload file that is named first, then obeys standard input.

    Each line there is a task, with the number of its first conversation and how many it may use;
    each line of standard output is a sample with this process's memory. Ends with the input.
    """
    workload = Workload.load(Path(sys.argv[1]))
    # What libraries print goes to standard error: the answers have a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps({**fields, "rss_mib": rss_mib()}) + "\n")
        answers.flush()

    measure = load(workload)
    answer(versions=versions)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = list(workload.prompts(asked["first"]))[: asked["count"]]
        task = Task(asked["kind"], asked["in_flight"], asked["seconds"], prompts)
        answer(**asdict(measure(task)))


def rss_mib() -> int:
    """Resident memory of this process, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
