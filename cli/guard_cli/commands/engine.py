"""`guard engine`: a slot's Triton alone, where the gateway runs elsewhere."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guard_cli.options import RUN, fail, shown, slot_directory
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest

_POLL_S = 0.5


def engine(
    slot: Annotated[Path, typer.Option(help="The slot: its name or directory.")] = Path("blue"),
    port: Annotated[
        int, typer.Option(help="Triton's gRPC port on loopback; its metrics come one higher.")
    ] = 18001,
) -> None:
    """Run only a slot's Triton, until Ctrl-C or SIGTERM; `python -m guard_server` is the rest."""
    directory = slot_directory(slot)
    console = Console(stderr=True)
    log = RUN / f"triton-{directory.name}.log"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status(f"Checking {shown(directory)} ..."):
            Manifest.load(directory).check(directory)
        with TritonProcess(directory, grpc_port=port, metrics_port=port + 1, log=log) as triton:
            console.print(f"Triton serves {shown(directory)} on {triton.target}; log: {shown(log)}")
            while triton.running:
                time.sleep(_POLL_S)
    except (SlotInvalid, TritonFailed, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        console.print("Stopped.")
        return
    fail(f"Triton ended by itself. See {shown(log)}, then start again.")
