"""`guard bench load`: calls at random moments to a server that runs."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import EncodedCalls, moderate, stream_moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_cli.options import fail
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


async def _random_calls(
    target: str, calls: EncodedCalls, rate: float, seconds: float, connections: int
) -> Sample:
    async with sending(target, calls, connections=connections) as send:
        return await open_loop(send, rate=rate, seconds=seconds)
