"""`guard bench load`: calls at random moments to a server that runs."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from guard_bench.loadgen.encoded_calls import moderate, stream_moderate
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.scenarios.server_load import ServerLoadReport, measure
from guard_cli.options import JsonOption, fail, writing
from guard_eval.datasets import parse_json_lines
from guard_eval.errors import DataInvalid
from guard_eval.service import to_contract


def load(
    target: Annotated[str, typer.Argument(help="The server's gRPC address, HOST:PORT.")],
    rate: Annotated[float, typer.Option(help="Calls a second, in the mean.", min=0.1)] = 50,
    seconds: Annotated[float, typer.Option(help="How long to send.", min=0.1)] = 10,
    stream: Annotated[bool, typer.Option("--stream", help="By streams, not unary calls.")] = False,
    connections: Annotated[int, typer.Option(help="Connections that share the calls.", min=1)] = 1,
    file: Annotated[
        Path | None, typer.Option(help="JSON Lines of conversations; default: random words.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Calls at random moments to a running server, in plain text, and how each of them ended.

    It does not wait for answers before it goes on, and no status ends it. Exit code 1 if no call
    got a verdict.
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
        fail(str(error), code=2)
    with Console(stderr=True).status(f"{rate:g} calls a second for {seconds:g} s"):
        report = asyncio.run(
            measure(target, calls, rate=rate, seconds=seconds, connections=connections)
        )
    _show(report)
    if json is not None:
        with writing(json):
            report.save(json)
    if not report.verdicts:
        fail(f"No call got a verdict. {_reason(report)}")


def _show(report: ServerLoadReport) -> None:
    table = Table("status", "calls", "p50, ms", "p99, ms", title=f"{report.rate:.1f} verdicts/s")
    for status, found in report.statuses.items():
        table.add_row(status, str(found.calls), _ms(found.p50_s), _ms(found.p99_s))
    Console().print(table)
    Console().print(f"99% were sent at most {_ms(report.late_s)} ms late.")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _reason(report: ServerLoadReport) -> str:
    if not report.errors:
        return "No call was made in this time: give a higher --rate or more --seconds."
    error, number = max(report.errors.items(), key=lambda item: item[1])
    return f"{number} of them ended so: {error}"
