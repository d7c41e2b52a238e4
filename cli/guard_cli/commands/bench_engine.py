"""`guard bench engine`: what the CPU engine reaches on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from guard_bench.engine_table import show_engine
from guard_bench.scenarios.engine_throughput import measure
from guard_bench.targets.cpu_engine import prepare
from guard_cli.options import RUN, JsonOption, fail, writing


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
    json: JsonOption = None,
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
        with writing(json):
            report.save(json)
