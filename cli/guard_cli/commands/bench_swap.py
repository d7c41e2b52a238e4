"""`guard bench swap`: what callers notice when the traffic moves to another slot."""

import asyncio
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from guard_bench.scenarios.swap_report import SwapPlan
from guard_bench.scenarios.swaps import measure
from guard_bench.swap_table import show_swaps
from guard_cli.options import RUN, JsonOption, fail, writing
from guard_control.host import control_socket


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
    json: JsonOption = None,
    directory: Annotated[Path, typer.Option(help="Where the slots are kept.")] = RUN / "swap",
) -> None:
    """Swaps between INT8 and f32 of the tiny guard under an open-loop load, nothing retried."""
    out, err = Console(), Console(stderr=True)
    plan = SwapPlan(swaps, deploys, kills, calls, before, pause, load, workers)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        with err.status("starting") as status:
            report = asyncio.run(measure(plan, directory, control_socket.find, status.update))
    except grpc.aio.AioRpcError as error:
        fail(f"A swap was refused: {error.details()}")
    except (OSError, RuntimeError) as error:
        fail(str(error))
    show_swaps(report, out)
    if json is not None:
        with writing(json):
            report.save(json)
    if report.failed or report.lost or report.wrong_slot:
        raise typer.Exit(1)
