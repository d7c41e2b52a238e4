"""`guard bench engine`: what the CPU engine reaches on this machine."""

import fcntl
import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import guard_engine
from guard_bench import machine
from guard_bench.checkpoint import write_checkpoint
from guard_bench.floor import floor
from guard_bench.load import Sample, run
from guard_bench.traffic import (
    CONVERSATION_TOKENS,
    KINDS,
    PROMPT,
    SAFE,
    Kind,
    Verdict,
    verdicts,
)
from guard_engine import (
    Engine,
    EngineOptions,
    WeightFormat,
    build_graph,
    kv_block_bytes,
    read_config,
    save_graph,
)

IN_FLIGHT = (1, 8, 32)
Progress = Callable[[str], None]


@dataclass
class Report:
    """All that one run found. Rates are verdicts a second; a token rate is of computed tokens."""

    shape: str
    weights: WeightFormat
    options: EngineOptions
    machine: dict[str, str | int]
    seconds_per_point: float
    load_s: float = 0.0
    kv_pool_mib: int = 0
    rss_loaded_mib: int = 0
    """After the first verdicts: the model with an all but untouched KV pool."""
    rss_full_mib: int = 0
    """At the end of the run, with `kv_blocks_used` blocks of the pool in use or cached."""
    kv_blocks_used: int = 0
    points: dict[str, dict[int, Sample]] = field(default_factory=dict)
    """By kind of traffic and verdicts in flight."""
    floor_tokens_per_s: dict[int, float] = field(default_factory=dict)
    """By tokens in a batch; the better of the measurements before and after safe verdicts at 32."""

    @property
    def floor(self) -> float:
        """Safe verdicts a second at the floor."""
        own = sum(CONVERSATION_TOKENS) / 2 + PROMPT.tail + PROMPT.draft
        return max(self.floor_tokens_per_s.values()) / own

    @property
    def ratio_to_floor(self) -> float:
        return self.points[SAFE.name][IN_FLIGHT[-1]].rate / self.floor

    def save(self, path: Path) -> None:
        """Writes JSON, with the floor, the ratio to it and every point's rate too."""
        document = asdict(self) | {"floor": self.floor, "ratio_to_floor": self.ratio_to_floor}
        for samples in document["points"].values():
            for sample in samples.values():
                sample["rate"] = sample["verdicts"] / sample["seconds"]
        path.write_text(json.dumps(document, indent=2) + "\n")


def prepare(shape: str, weights: WeightFormat, cache: Path, progress: Progress) -> Path:
    """Gives the graph's .xml below `cache`, where checkpoint and graph are made only once.

    In a process of its own, whose memory is no part of what is measured in this one. Graphs of
    another state of the engine's code are made anew.
    """
    checkpoint = cache / shape / "checkpoint"
    xml = cache / shape / f"graphs-{_engine_code()}" / weights / "openvino_model.xml"
    with _only_one(cache / shape):
        if not xml.exists():
            progress(f"making a {shape} checkpoint and its {weights} engine (once)")
            for stale in (cache / shape).glob("graphs-*"):
                if stale != xml.parents[1]:
                    shutil.rmtree(stale)
            process = multiprocessing.get_context("spawn").Process(
                target=_prepare, args=(shape, weights, checkpoint, xml)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"Making {xml.parent} failed; see above.")
    return xml


def checkpoint_of(xml: Path) -> Path:
    """The checkpoint of a graph that `prepare` made."""
    return xml.parents[2] / "checkpoint"


def _prepare(shape: str, weights: WeightFormat, checkpoint: Path, xml: Path) -> None:
    if not checkpoint.exists():
        with _aside(checkpoint) as unfinished:
            write_checkpoint(shape, unfinished)
    with _aside(xml.parent) as unfinished:
        unfinished.mkdir(parents=True)
        save_graph(build_graph(checkpoint, weights=weights), unfinished / xml.name)


@contextmanager
def _aside(directory: Path) -> Iterator[Path]:
    """A place to write to, which becomes `directory` in one piece."""
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    unfinished.rename(directory)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Runs that begin together prepare one after the other."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine_code() -> str:
    """A short name of the state of the engine's code."""
    sources = sorted(Path(guard_engine.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def measure(
    shape: str,
    weights: WeightFormat,
    xml: Path,
    *,
    seconds: float,
    kv_mib: int,
    step_tokens: int,
    progress: Progress,
) -> Report:
    """Loads the engine and measures every point, each for `seconds` at least after its warm-up."""
    config = read_config(checkpoint_of(xml))
    block_bytes = kv_block_bytes(config, weights)
    options = EngineOptions(
        max_input_tokens=2048,
        max_output_tokens=64,
        max_draft_tokens=24,
        max_in_flight=IN_FLIGHT[-1],
        kv_blocks=min(kv_mib * 2**20 // block_bytes, 65536),
        step_tokens=step_tokens,
    )
    report = Report(shape, weights, options, machine.describe(), seconds)
    report.kv_pool_mib = options.kv_blocks * block_bytes >> 20
    progress("loading")
    begun = time.monotonic()
    engine = Engine(xml, options)
    report.load_s = time.monotonic() - begun
    seeds = count()

    def traffic(kind: Kind = SAFE) -> Iterator[Verdict]:
        return verdicts(kind, config.vocab_size, next(seeds))

    def find_floor() -> None:
        progress("floor")
        found = floor(engine, traffic(), PROMPT.prefix, seconds)
        before = report.floor_tokens_per_s
        report.floor_tokens_per_s = {n: max(x, before.get(n, 0)) for n, x in found.items()}

    try:
        run(engine, traffic(), 1, 0)
        report.rss_loaded_mib = machine.rss_mib()
        for kind in KINDS:
            report.points[kind.name] = {}
            for in_flight in IN_FLIGHT:
                bracketed = kind is SAFE and in_flight == IN_FLIGHT[-1]
                if bracketed:
                    find_floor()
                progress(f"{kind.name}, {in_flight} in flight")
                sample = run(engine, traffic(kind), in_flight, seconds)
                report.points[kind.name][in_flight] = sample
                if bracketed:
                    find_floor()
        report.rss_full_mib = machine.rss_mib()
        usage = engine.usage()
        report.kv_blocks_used = options.kv_blocks - usage.free_blocks
    finally:
        engine.close()
    return report
