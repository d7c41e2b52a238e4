"""`guard bench`: what this machine reaches."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from guard_bench.engine import measure, prepare
from guard_bench.gateway.load import open_loop
from guard_bench.gateway.measure import WORDS, Bench
from guard_bench.gateway.table import show as show_gateway
from guard_bench.gateway.traffic import conversations, moderate, stream_moderate
from guard_bench.table import show
from guard_cli.build import slot_directory
from guard_cli.conversations import ConversationUnreadable, of_lines, of_text
from guard_cli.options import RUN, fail
from guard_control.triton import Triton, TritonFailed
from guard_server.errors import SlotInvalid

bench = typer.Typer(help="Measure what this machine reaches.", no_args_is_help=True)


class Part(StrEnum):
    """What `guard bench gateway` measures."""

    speed = "speed"
    overload = "overload"
    engine = "engine"


@bench.command()
def engine(
    shape: Annotated[
        Literal["tiny", "0.6b", "4b", "8b"], typer.Option(help="Whose dimensions the model has.")
    ] = "0.6b",
    weights: Annotated[
        Literal["int8", "int8-g128", "bf16", "f32"], typer.Option(help="The weights' format.")
    ] = "int8",
    seconds: Annotated[float, typer.Option(help="How long to measure each point.", min=0)] = 15,
    kv_mib: Annotated[int, typer.Option(help="The KV pool's size.", min=1)] = 2048,
    step_tokens: Annotated[int, typer.Option(help="A step's token budget.", min=64)] = 512,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    cache: Annotated[Path, typer.Option(help="Where made-up models are kept.")] = RUN / "bench",
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
    show(report, out)
    if json is not None:
        report.save(json)


@bench.command()
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
    run = RUN / "bench" / "gateway"
    run.mkdir(parents=True, exist_ok=True)
    directory = slot_directory(slot)

    @contextmanager
    def triton(directory: Path) -> Iterator[str]:
        ports = free_ports(2)
        log = run / "triton.log"
        with Triton(directory, grpc_port=ports[0], metrics_port=ports[1], log=log) as started:
            yield started.target

    try:
        with err.status("starting") as status:
            measuring = Bench(run, triton, seconds=seconds, rounds=rounds, progress=status.update)
            for part in parts or list(Part):
                match part:
                    case Part.speed:
                        measuring.speed()
                    case Part.overload:
                        measuring.overload()
                    case Part.engine:
                        measuring.engine(directory)
    except (OSError, RuntimeError, SlotInvalid, TritonFailed) as error:
        fail(str(error))
    show_gateway(measuring.report, out)
    if json is not None:
        measuring.report.save(json)


@bench.command()
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
    texts = conversations(int(rate * seconds) + 1, WORDS, seed=time.time_ns() % 2**32)
    try:
        messages = (
            [of_text(text) for text in texts]
            if file is None
            else list(of_lines(file.read_text(encoding="utf-8")))
        )
    except (OSError, ConversationUnreadable) as error:
        fail(str(error))
    calls = (stream_moderate if stream else moderate)([one.messages for one in messages])
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


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
