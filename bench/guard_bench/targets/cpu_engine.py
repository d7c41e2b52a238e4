"""The CPU engine in this process, with random weights, as a target of the load generator."""

import asyncio
import fcntl
import hashlib
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import guard_engine
from guard_bench.loadgen.call import OK, CallResult, Send
from guard_bench.targets.random_checkpoint import write_checkpoint
from guard_bench.workload import EngineVerdict
from guard_engine import (
    Completion,
    Engine,
    EngineError,
    Request,
    WeightFormat,
    build_graph,
    save_graph,
)

_TIMEOUT_S = 600  # no request takes so long

_OK = CallResult(OK)


def prepare(
    shape: str, weights: WeightFormat, cache: Path, progress: Callable[[str], None]
) -> Path:
    """Gives the graph's .xml below `cache`, where checkpoint and graph are made only once.

    In a process of its own, whose memory is no part of what is measured in this one. Graphs of
    another state of the engine's code are replaced. Raises RuntimeError.
    """
    checkpoint = cache / shape / "checkpoint"
    xml = cache / shape / f"graphs-{_engine_code()}" / weights / "openvino_model.xml"
    with _locked(cache / shape):
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


def sending_to(engine: Engine, verdicts: Iterator[EngineVerdict]) -> Send:
    """Each call is the next verdict, with all of its requests; one that fails ends the load."""

    async def send(_number: int) -> CallResult:
        for request in next(verdicts).requests:
            await complete(engine, request)
        return _OK

    return send


async def complete(engine: Engine, request: Request) -> Completion:
    """Raises EngineError if the request failed. A caller that is cancelled cancels it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Completion | EngineError] = loop.create_future()

    def deliver(outcome: Completion | EngineError) -> None:
        loop.call_soon_threadsafe(done.set_result, outcome)

    engine.submit(request, deliver)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            outcome = await asyncio.shield(done)
    except asyncio.CancelledError:
        engine.cancel(request.id)
        await done
        raise
    if isinstance(outcome, EngineError):
        raise outcome
    return outcome


def _prepare(shape: str, weights: WeightFormat, checkpoint: Path, xml: Path) -> None:
    if not checkpoint.exists():
        with _in_one_piece(checkpoint) as unfinished:
            write_checkpoint(shape, unfinished)
    with _in_one_piece(xml.parent) as unfinished:
        unfinished.mkdir(parents=True)
        save_graph(build_graph(checkpoint, weights=weights), unfinished / xml.name)


@contextmanager
def _in_one_piece(directory: Path) -> Iterator[Path]:
    """A directory to write to, which is renamed to `directory` at the end."""
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    unfinished.rename(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Runs that begin together prepare one after the other."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine_code() -> str:
    """A short name of the state of the engine's code."""
    sources = sorted(Path(guard_engine.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
