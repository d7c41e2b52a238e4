"""`guard engine`: a slot's Triton alone, where the gateway runs elsewhere."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from guard_cli.options import RUN, shown, slot_directory
from guard_cli.server_output import LogFormat, ServerOutput, server_output
from guard_control.events import Events
from guard_control.slot_processes import SlotProcesses
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest

_START_S = 300.0


def engine(
    slot: Annotated[Path, typer.Option(help="The slot: its name or directory.")] = Path("blue"),
    socket: Annotated[
        Path | None,
        typer.Option(
            help="The socket that Triton listens on, to whose name it adds :PORT; by "
            "default one in memory, which is printed."
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(help="The number in that name; Triton's metrics are on the next port."),
    ] = 18001,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="GUARD_LOG_FORMAT", help="Format of log lines.")
    ] = "console",
) -> None:
    """Run only a slot's Triton, until Ctrl-C or SIGTERM; `python -m guard_server` is the rest.

    A Triton that dies, or gives no verdicts any more, is started again.
    """
    directory = slot_directory(slot)
    output = server_output(log_format)
    try:
        with output.doing(f"Checking {shown(directory)} ..."):
            Manifest.load(directory).check(directory)
        asyncio.run(_run(directory, port, socket, output))
    except (SlotInvalid, TritonFailed, OSError) as error:
        output.fail(str(error))
    output.say("Stopped.")


async def _run(directory: Path, port: int, socket: Path | None, output: ServerOutput) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    slots = SlotProcesses(RUN, port, Events())
    starting = asyncio.create_task(slots.start(directory, _START_S, socket))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            triton = starting.result().triton
            log = shown(triton.log)
            output.say(f"Triton serves {shown(directory)} on {triton.target}; log: {log}")
            await stop.wait()
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.wait({starting, stopping})
        await slots.stop_all()
