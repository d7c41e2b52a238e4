"""`guard bench attacks`: what one caller can take from another one."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guard_bench.attacks_table import show_attacks, write_page
from guard_bench.loadgen.attack import ATTACKS
from guard_bench.scenarios import gateway_attacks
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_cli.commands.bench_gateway import BENCH_RUN, make_directory, triton
from guard_cli.options import JsonOption, fail, write_json, writing
from guard_control.triton_process import TritonFailed


def attacks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which attacks; default: all.", show_default=False)
    ] = None,
    calls: Annotated[
        int, typer.Option(help="The victim's calls of each point, quiet and attacked.", min=1)
    ] = 300,
    seconds: Annotated[
        float, typer.Option(help="How long to measure each point at most.", min=0.1)
    ] = 10,
    rounds: Annotated[int, typer.Option(help="Measurements of each point.", min=1)] = 1,
    page: Annotated[
        Path | None, typer.Option(help="Write the table into this page, between its marks.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """A caller that would take all from another one, from another address and from the same one:
    what the other one gets."""
    if unknown := set(names or ()) - set(ATTACKS):
        fail(f"There is no attack {', '.join(sorted(unknown))}; there are: {'; '.join(ATTACKS)}.")
    make_directory(BENCH_RUN)
    try:
        with Console(stderr=True).status("starting") as status:
            run = GatewayRun(
                BENCH_RUN, triton, seconds=seconds, rounds=rounds, progress=status.update
            )
            outcomes = gateway_attacks.measure(run, names or list(ATTACKS), calls)
    except (OSError, RuntimeError, TritonFailed) as error:
        fail(str(error))
    show_attacks(outcomes, Console())
    if page is not None:
        with writing(page):
            write_page(outcomes, page)
    if json is not None:
        write_json(json, [asdict(one) for one in outcomes])
