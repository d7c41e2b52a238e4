"""`guard bench gateway` and its like: what the gateway costs, and how it takes load."""

import asyncio
import json as jsonlib
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from guard_bench.gateway.load import open_loop
from guard_bench.gateway.measure import WORDS, Bench
from guard_bench.gateway.perf import PerfAnalyzer, PerfFailed
from guard_bench.gateway.soak import soak as run_soak
from guard_bench.gateway.table import show
from guard_bench.gateway.traffic import Conversation, conversations, moderate, stream_moderate
from guard_cli.options import RUN, fail, slot_directory
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_eval.datasets import parse_json_lines
from guard_eval.errors import DataInvalid
from guard_eval.service import to_contract

_RUN = RUN / "bench" / "gateway"


class Part(StrEnum):
    """What `guard bench gateway` measures."""

    speed = "speed"
    overload = "overload"
    cancel = "cancel"
    engine = "engine"


def gateway(
    parts: Annotated[
        list[Part] | None, typer.Argument(help="Of the measurement; else all.", show_default=False)
    ] = None,
    slot: Annotated[Path, typer.Option(help="The slot of the part `engine`.")] = Path("blue"),
    seconds: Annotated[float, typer.Option(help="How long to measure each point.", min=0.1)] = 5,
    rounds: Annotated[int, typer.Option(help="How often, in turn.", min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """The gateway before a null engine and beside a bare proxy, under overload, and before the
    slot's own engine."""
    out, err = Console(), Console(stderr=True)
    _RUN.mkdir(parents=True, exist_ok=True)
    directory, parts = slot_directory(slot), parts or list(Part)

    try:
        if Part.engine in parts:
            Manifest.load(directory)  # a slot that is not there is known before minutes are spent
        with err.status("starting") as status:
            measuring = Bench(_RUN, _triton, seconds=seconds, rounds=rounds, progress=status.update)
            for part in parts:
                match part:
                    case Part.speed:
                        measuring.speed()
                    case Part.overload:
                        measuring.overload()
                    case Part.cancel:
                        measuring.cancel()
                    case Part.engine:
                        measuring.engine(directory)
    except (OSError, RuntimeError, SlotInvalid, TritonFailed) as error:
        fail(str(error))
    show(measuring.report, out)
    if json is not None:
        measuring.report.save(json)


def load(
    target: Annotated[str, typer.Argument(help="The server's gRPC address, HOST:PORT.")],
    rate: Annotated[float, typer.Option(help="Calls a second, in the mean.", min=0.1)] = 50,
    seconds: Annotated[float, typer.Option(help="How long to send.", min=0.1)] = 10,
    stream: Annotated[bool, typer.Option("--stream", help="By streams, not unary calls.")] = False,
    connections: Annotated[int, typer.Option(help="So many, in turn.", min=1)] = 1,
    file: Annotated[
        Path | None, typer.Option(help="JSON Lines of conversations; else they are made up.")
    ] = None,
) -> None:
    """Calls at random moments on a server that runs, in plain text, and how each of them ended.

    It does not wait for answers before it goes on, and no status ends it.
    """
    texts: Sequence[Conversation] = conversations(
        int(rate * seconds) + 1, WORDS, seed=time.time_ns() % 2**32
    )
    try:
        if file is not None:
            examples = parse_json_lines(file.read_bytes(), str(file))
            texts = [to_contract(example.messages) for example in examples]
    except (OSError, DataInvalid) as error:
        fail(str(error))
    calls = (stream_moderate if stream else moderate)(texts)
    with Console(stderr=True).status(f"{rate:g} calls a second for {seconds:g} s"):
        sample = asyncio.run(
            open_loop(target, calls, rate=rate, seconds=seconds, connections=connections)
        )
    table = Table("status", "calls", "p50, ms", "p99, ms", title=f"{sample.rate:.1f} verdicts/s")
    for status, number in sorted(sample.statuses.items()):
        quantiles = (f"{sample.quantile_s(q, status) * 1e3:.2f}" for q in (0.5, 0.99))
        table.add_row(status, str(number), *quantiles)
    Console().print(table)
    Console().print(f"99% were sent at most {sample.late_s * 1e3:.2f} ms late.")


def perf(
    analyzer: Annotated[Path, typer.Option(help="The binary of perf_analyzer.")],
    json: Annotated[Path, typer.Option(help="Where the result goes.")],
) -> None:
    """Sweep the gateway and Triton with perf_analyzer (`make perf` gets it, and draws)."""
    _RUN.mkdir(parents=True, exist_ok=True)
    json.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Console(stderr=True).status("starting") as status:
            measuring = Bench(_RUN, _triton, seconds=1, rounds=1, progress=status.update)
            found = measuring.perf(PerfAnalyzer(analyzer, _libraries()))
    except (OSError, RuntimeError, TritonFailed, PerfFailed) as error:
        fail(str(error))
    json.write_text(jsonlib.dumps(found, indent=2) + "\n")


def soak(
    calls: Annotated[int, typer.Option(help="How many.", min=1000)] = 100_000,
    in_flight: Annotated[int, typer.Option(help="Calls at once.", min=1)] = 64,
    slot: Annotated[Path, typer.Option(help="Whose engine.")] = Path("blue"),
) -> None:
    """Calls with random deadlines and cancels on a gateway before a slot's CPU engine, and what is
    left of them: requests in flight and queued, the engine's blocks, memory."""
    directory = slot_directory(slot)
    _RUN.mkdir(parents=True, exist_ok=True)
    try:
        with Console(stderr=True).status("starting") as status:
            port = _free_ports(1)[0]
            found = run_soak(_RUN, directory, _started, calls, in_flight, port, status.update)
    except (OSError, RuntimeError, SlotInvalid, TritonFailed) as error:
        fail(str(error))
    console = Console()
    for line in found.lines():
        console.print(line)
    if not found.clean:
        raise typer.Exit(1)


def _libraries() -> Path:
    """Beside the package that brings Triton, which is never imported."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonFailed("Triton is not installed. Run `make serve`, which sets it up.")
    return Path(spec.origin).parents[1] / "nvidia_pytriton.libs"


def _started(slot: Path) -> TritonProcess:
    """As a context manager it runs."""
    grpc_port, metrics_port = _free_ports(2)
    return TritonProcess(
        slot, grpc_port=grpc_port, metrics_port=metrics_port, log=_RUN / "triton.log"
    )


@contextmanager
def _triton(slot: Path) -> Iterator[str]:
    with _started(slot) as started:
        yield started.target


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
