"""`guard bench`: what this machine reaches."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import grpc
import typer
from rich.console import Console

from guard_bench.report_tables import show_engine, show_swaps
from guard_bench.scenarios.engine_throughput import measure
from guard_bench.scenarios.swap_report import SwapPlan
from guard_bench.scenarios.swaps import measure as measure_swaps
from guard_bench.targets.cpu_engine import prepare
from guard_cli.commands import bench_gateway
from guard_cli.options import RUN, fail

bench = typer.Typer(help="Measure what this machine reaches.", no_args_is_help=True)


@bench.command()
def engine(
    shape: Annotated[
        Literal["tiny", "0.6b", "4b", "8b"], typer.Option(help="The model's dimensions.")
    ] = "0.6b",
    weights: Annotated[
        Literal["int8", "int8-g128", "bf16", "f32"], typer.Option(help="The weights' format.")
    ] = "int8",
    seconds: Annotated[float, typer.Option(help="How long to measure each point.", min=0)] = 15,
    kv_mib: Annotated[int, typer.Option(help="The KV pool's size.", min=1)] = 2048,
    step_tokens: Annotated[int, typer.Option(help="A step's token budget.", min=64)] = 512,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    cache: Annotated[Path, typer.Option(help="Keeps the random models.")] = RUN / "bench",
) -> None:
    """The CPU engine alone, with random weights of true shapes and the real token counts."""
    out, err = Console(), Console(stderr=True)
    try:
        with err.status("starting") as status:
            xml = prepare(shape, weights, cache, status.update)
            report = measure(
                shape,
                weights,
                xml,
                seconds=seconds,
                kv_mib=kv_mib,
                step_tokens=step_tokens,
                progress=status.update,
            )
    except (OSError, RuntimeError) as error:
        fail(str(error))
    show_engine(report, out)
    if json is not None:
        report.save(json)


@bench.command()
def swap(
    swaps: Annotated[int, typer.Option(help="Swaps between two warm slots.", min=0)] = 20,
    deploys: Annotated[
        int, typer.Option(help="Whole deployments after them: started, verified, stopped.", min=0)
    ] = 0,
    kills: Annotated[int, typer.Option(help="Then kills of the active slot's Triton.", min=0)] = 0,
    calls: Annotated[
        int,
        typer.Option(help="Calls at least; the spans before swaps grow for it.", min=0),
    ] = 20_000,
    before: Annotated[
        float, typer.Option(help="Seconds before each swap, to compare it with.", min=1)
    ] = 5,
    pause: Annotated[float, typer.Option(help="Seconds of each of a swap's steps.", min=0)] = 1.5,
    load: Annotated[float, typer.Option(help="Share of the capacity.", min=0.05, max=1)] = 0.5,
    workers: Annotated[int, typer.Option(help="Gateway processes.", min=1)] = 2,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    directory: Annotated[Path, typer.Option(help="Where the slots are kept.")] = RUN / "swap",
) -> None:
    """Swaps between INT8 and f32 of the tiny guard under an open-loop load, nothing retried."""
    out, err = Console(), Console(stderr=True)
    plan = SwapPlan(swaps, deploys, kills, calls, before, pause, load, workers)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with err.status("starting") as status:
            report = asyncio.run(measure_swaps(plan, directory, status.update))
    except grpc.aio.AioRpcError as error:
        fail(f"A swap was refused: {error.details()}")
    except (OSError, RuntimeError) as error:
        fail(str(error))
    show_swaps(report, out)
    if json is not None:
        report.save(json)
    if report.failed or report.lost or report.wrong_slot:
        raise typer.Exit(1)


for command in (bench_gateway.gateway, bench_gateway.load, bench_gateway.perf, bench_gateway.soak):
    bench.command()(command)
