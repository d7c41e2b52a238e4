"""`guard bench gateway`, `load`, `perf`, `soak`: what the gateway costs, and how it takes load."""

import asyncio
import json as jsonlib
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import EncodedCalls, moderate, stream_moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.loadgen.synthetic_prompts import prompts
from guard_bench.report_tables import show_gateway
from guard_bench.scenarios import (
    gateway_cancel,
    gateway_overload,
    gateway_soak,
    gateway_speed,
    perf_analyzer,
    recorded_requests,
)
from guard_bench.scenarios.gateway_run import WORDS, GatewayRun
from guard_bench.scenarios.perf_analyzer import PerfAnalyzer, PerfFailed
from guard_bench.targets.processes import free_ports
from guard_cli.options import RUN, fail, slot_directory
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_control.triton_wheel import TritonMissing, wheel_directory
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
        list[Part] | None, typer.Argument(help="What to measure; default: all.", show_default=False)
    ] = None,
    slot: Annotated[Path, typer.Option(help="The slot of the part `engine`.")] = Path("blue"),
    seconds: Annotated[float, typer.Option(help="How long to measure each point.", min=0.1)] = 5,
    rounds: Annotated[int, typer.Option(help="Measurements of each point.", min=1)] = 3,
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
            run = GatewayRun(_RUN, _triton, seconds=seconds, rounds=rounds, progress=status.update)
            for part in parts:
                match part:
                    case Part.speed:
                        gateway_speed.measure(run)
                    case Part.overload:
                        gateway_overload.measure(run)
                    case Part.cancel:
                        gateway_cancel.measure(run)
                    case Part.engine:
                        recorded_requests.measure(run, directory)
    except (OSError, RuntimeError, SlotInvalid, TritonFailed) as error:
        fail(str(error))
    show_gateway(run.report, out)
    if json is not None:
        run.report.save(json)


def load(
    target: Annotated[str, typer.Argument(help="The server's gRPC address, HOST:PORT.")],
    rate: Annotated[float, typer.Option(help="Calls a second, in the mean.", min=0.1)] = 50,
    seconds: Annotated[float, typer.Option(help="How long to send.", min=0.1)] = 10,
    stream: Annotated[bool, typer.Option("--stream", help="By streams, not unary calls.")] = False,
    connections: Annotated[int, typer.Option(help="Connections that share the calls.", min=1)] = 1,
    file: Annotated[
        Path | None, typer.Option(help="JSON Lines of conversations; default: random words.")
    ] = None,
) -> None:
    """Calls at random moments to a running server, in plain text, and how each of them ended.

    It does not wait for answers before it goes on, and no status ends it.
    """
    encoded = stream_moderate if stream else moderate
    try:
        if file is None:
            count, seed = int(rate * seconds) + 1, time.time_ns() % 2**32
            calls = encoded(prompts(count, WORDS, seed=seed))
        else:
            examples = parse_json_lines(file.read_bytes(), str(file))
            calls = encoded([to_contract(example.messages) for example in examples])
    except (OSError, DataInvalid) as error:
        fail(str(error))
    with Console(stderr=True).status(f"{rate:g} calls a second for {seconds:g} s"):
        sample = asyncio.run(_random_calls(target, calls, rate, seconds, connections))
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
            run = GatewayRun(_RUN, _triton, seconds=1, rounds=1, progress=status.update)
            found = perf_analyzer.measure(run, PerfAnalyzer(analyzer, _libraries()))
    except (OSError, RuntimeError, TritonFailed, TritonMissing, PerfFailed) as error:
        fail(str(error))
    json.write_text(jsonlib.dumps(found, indent=2) + "\n")


def soak(
    calls: Annotated[int, typer.Option(help="Calls to make.", min=1000)] = 100_000,
    in_flight: Annotated[int, typer.Option(help="Calls in flight.", min=1)] = 64,
    slot: Annotated[Path, typer.Option(help="The slot whose engine is used.")] = Path("blue"),
) -> None:
    """Calls with random deadlines and cancels on a gateway before a slot's CPU engine, and what is
    left of them: requests in flight and queued, the engine's blocks, memory."""
    directory = slot_directory(slot)
    _RUN.mkdir(parents=True, exist_ok=True)
    try:
        with Console(stderr=True).status("starting") as status:
            found = gateway_soak.soak(
                *(_RUN, directory, _triton),
                calls=calls,
                in_flight=in_flight,
                progress=status.update,
            )
    except (OSError, RuntimeError, SlotInvalid, TritonFailed) as error:
        fail(str(error))
    console = Console()
    for line in found.lines():
        console.print(line)
    if not found.clean:
        raise typer.Exit(1)


async def _random_calls(
    target: str, calls: EncodedCalls, rate: float, seconds: float, connections: int
) -> Sample:
    async with sending(target, calls, connections=connections) as send:
        return await open_loop(send, rate=rate, seconds=seconds)


def _libraries() -> Path:
    """Beside the package that brings Triton. Raises TritonMissing."""
    return wheel_directory().parents[1] / "nvidia_pytriton.libs"


def _triton(slot: Path) -> TritonProcess:
    """It runs as long as its context."""
    grpc_port, metrics_port = free_ports(2)
    return TritonProcess(
        slot, grpc_port=grpc_port, metrics_port=metrics_port, log=_RUN / "triton.log"
    )
