"""`guard bench attacks` and `live`: what callers get, beside others and while they write."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import grpc
import typer
from rich.console import Console

from guard_bench.attacks_table import show_attacks, write_page
from guard_bench.live.live_bench import Conversation, LiveBench
from guard_bench.live.live_cases import LiveCase, measure
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.live.live_table import show_live, write_live_page
from guard_bench.loadgen.attack import ATTACKS
from guard_bench.scenarios import gateway_attacks
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_cli.commands.bench_gateway import BENCH_RUN, make_directory, triton
from guard_cli.options import RUN, JsonOption, fail, write_json, writing
from guard_control.host import control_socket
from guard_control.triton_process import TritonFailed
from guard_core.conversation import Mode
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.service import to_contract
from qwen3guard_client import GuardError

_LIVE_RUN = RUN / "bench" / "live"


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


def live(
    cases: Annotated[
        list[LiveCase] | None,
        typer.Argument(help="What to measure; default: all.", show_default=False),
    ] = None,
    runs: Annotated[int, typer.Option(help="Answers of `finals`.", min=1)] = 500,
    shape: Annotated[
        Literal["tiny", "0.6b", "4b", "8b"], typer.Option(help="The model's shape, for `cost`.")
    ] = "0.6b",
    seconds: Annotated[float, typer.Option(help="How long to measure each load.", min=0.5)] = 30,
    rounds: Annotated[int, typer.Option(help="Measurements of `beside`.", min=1)] = 5,
    page: Annotated[
        Path | None, typer.Option(help="Write the table into this page, between its marks.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Answers that are judged while they are written: their ends, their cost, a slow engine, stops,
    what goes away under them, unary calls beside them.

    Exit code 1 if something is not reached.
    """
    for directory in (_LIVE_RUN, BENCH_RUN):  # Triton's log is in the other one
        make_directory(directory)
    found: list[LiveOutcome] = []
    try:
        with Console(stderr=True).status("starting") as status:
            bench = LiveBench(
                _LIVE_RUN,
                triton,
                control_socket.find,
                _answers(),
                runs=runs,
                shape=shape,
                seconds=seconds,
                rounds=rounds,
                progress=status.update,
            )
            for case in cases or LiveCase:
                found += asyncio.run(measure(bench, case))
    except (OSError, RuntimeError, TritonFailed, GuardError) as error:
        fail(str(error))
    except grpc.aio.AioRpcError as error:
        fail(f"A deployment was refused: {error.details()}")
    finally:
        show_live(found, Console())  # also what was measured before a case failed
    if page is not None:
        with writing(page):
            write_live_page(found, page)
    if json is not None:
        write_json(json, [asdict(one) for one in found])
    if any(one.passed is False for one in found):
        raise typer.Exit(1)


def _answers() -> list[Conversation]:
    """The golden set's conversations that end with an answer."""
    examples = load_examples(GOLDEN_SET)
    return [to_contract(one.messages) for one in examples if one.mode is Mode.RESPONSE]
