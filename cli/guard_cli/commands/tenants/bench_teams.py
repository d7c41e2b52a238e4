"""`guard bench teams`: what tenants cost, and how exactly their quotas and turns hold."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from guard_bench.scenarios.gateway_run import GatewayRun
from guard_bench.teams import teams_bench
from guard_cli.commands.bench_gateway import BENCH_RUN, make_directory, triton
from guard_cli.options import JsonOption, fail, write_json
from guard_control.triton_process import TritonFailed


def teams(
    seconds: Annotated[
        float, typer.Option(help="How long a quota and the turns are tried.", min=0.5)
    ] = 60,
    rounds: Annotated[int, typer.Option(help="Of the processor time, 3 s each.", min=1)] = 9,
    json: JsonOption = None,
) -> None:
    """A gateway with tenants: its processor time beside one without, its quotas over one and four
    workers, and turns behind a proxy's one connection."""
    make_directory(BENCH_RUN)
    try:
        with Console(stderr=True).status("starting") as status:
            run = GatewayRun(
                BENCH_RUN, triton, seconds=min(3.0, seconds), rounds=rounds, progress=status.update
            )
            figures = [
                *teams_bench.cost(run),
                *(one for workers in (1, 4) for one in teams_bench.quotas(run, seconds, workers)),
                *teams_bench.fairness(run, seconds),
            ]
    except (OSError, RuntimeError, TritonFailed) as error:
        fail(str(error))
    table = Table("Case", "Figure", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for one in figures:
        table.add_row(one.case, one.figure, f"{one.value:.3f}")
    Console(highlight=False).print(table)
    if json is not None:
        write_json(json, [asdict(one) for one in figures])
