"""`guard bench gateway`, `replicas`, `perf`, `soak`: the gateway's cost, and how it takes load."""

import asyncio
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guard_bench.gateway_table import show_gateway
from guard_bench.replicas.cases import Case, measure
from guard_bench.replicas.outcome import ReplicaOutcome
from guard_bench.replicas.replica_bench import ReplicaBench
from guard_bench.replicas.replica_table import show_replicas, write_page
from guard_bench.scenarios import (
    gateway_cancel,
    gateway_overload,
    gateway_soak,
    gateway_speed,
    perf_analyzer,
    recorded_requests,
)
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_bench.scenarios.perf_analyzer import PerfAnalyzer, PerfFailed
from guard_bench.targets.processes import free_ports
from guard_cli.options import (
    RUN,
    JsonOption,
    fail,
    report_file,
    slot_directory,
    write_json,
    writing,
)
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_control.triton_wheel import TritonMissing, wheel_directory
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest

BENCH_RUN = RUN / "bench" / "gateway"


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
    json: JsonOption = None,
) -> None:
    """The gateway before a null engine and beside a bare proxy, under overload, and before the
    slot's own engine."""
    out, err = Console(), Console(stderr=True)
    make_directory(BENCH_RUN)
    directory, parts = slot_directory(slot), parts or list(Part)

    try:
        if Part.engine in parts:
            Manifest.load(directory)  # a slot that is not there is known before minutes are spent
        with err.status("starting") as status:
            run = GatewayRun(
                BENCH_RUN, triton, seconds=seconds, rounds=rounds, progress=status.update
            )
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
        with writing(json):
            run.report.save(json)


def replicas(
    cases: Annotated[
        list[Case] | None, typer.Argument(help="What to measure; default: all.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each point.", min=0.5)] = 10,
    before: Annotated[
        Path | None,
        typer.Option(help="An older checkout, for `cost`: a gateway's processor time beside it."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the table into this page, between its marks.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Gateways before several Tritons of a slot: shared work, replicas that are lost, slow or
    changed under load, chats, overload."""
    make_directory(BENCH_RUN)
    found: list[ReplicaOutcome] = []
    try:
        with Console(stderr=True).status("starting") as status:
            bench = ReplicaBench(BENCH_RUN, triton, seconds, status.update, before)
            for case in cases or Case:
                found += asyncio.run(measure(bench, case))
    except (OSError, RuntimeError, TritonFailed) as error:
        fail(str(error))
    finally:
        show_replicas(found, Console())  # also what was measured before a case failed
    if page is not None:
        with writing(page):
            write_page(found, page)
    if json is not None:
        write_json(json, [asdict(one) for one in found])


def perf(
    analyzer: Annotated[Path, typer.Option(help="The binary of perf_analyzer.")],
    json: Annotated[Path, typer.Option(help="Where the result goes.")],
) -> None:
    """Sweep the gateway and Triton with perf_analyzer (`make perf` gets it, and draws)."""
    make_directory(BENCH_RUN)
    make_directory(json.parent)
    report_file(json)
    try:
        with Console(stderr=True).status("starting") as status:
            run = GatewayRun(BENCH_RUN, triton, seconds=1, rounds=1, progress=status.update)
            found = perf_analyzer.measure(run, PerfAnalyzer(analyzer, _libraries()))
    except (OSError, RuntimeError, TritonFailed, TritonMissing, PerfFailed) as error:
        fail(str(error))
    write_json(json, found)


def soak(
    calls: Annotated[int, typer.Option(help="Calls to make.", min=1000)] = 100_000,
    in_flight: Annotated[int, typer.Option(help="Calls in flight.", min=1)] = 64,
    slot: Annotated[Path, typer.Option(help="The slot whose engine is used.")] = Path("blue"),
) -> None:
    """Calls with random deadlines and cancels on a gateway before a slot's CPU engine, and what is
    left of them: requests in flight and queued, the engine's blocks, memory."""
    directory = slot_directory(slot)
    make_directory(BENCH_RUN)
    try:
        with Console(stderr=True).status("starting") as status:
            found = gateway_soak.soak(
                *(BENCH_RUN, directory, triton),
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


def make_directory(path: Path) -> None:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def _libraries() -> Path:
    """Beside the package that brings Triton. Raises TritonMissing."""
    return wheel_directory().parents[1] / "nvidia_pytriton.libs"


def triton(slot: Path) -> TritonProcess:
    """It runs as long as its context."""
    grpc_port, metrics_port = free_ports(2)
    return TritonProcess(
        slot, grpc_port=grpc_port, metrics_port=metrics_port, log=BENCH_RUN / "triton.log"
    )
