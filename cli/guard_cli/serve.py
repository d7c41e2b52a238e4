"""`guard serve`: Triton for the slot and the gateway before it, started and ended as one."""

import asyncio
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.panel import Panel

from guard_cli.options import RUN, fail, shown, slot_directory
from guard_cli.triton import Triton, TritonFailed
from guard_server import log
from guard_server.errors import SlotInvalid
from guard_server.manifest import Manifest
from guard_server.server import Gateway, serving
from guard_server.settings import Settings

_READY_S = 180
_POLL_S = 0.2


def serve(
    slot: Annotated[Path, typer.Option(help="The slot: its name or directory.")] = Path("blue"),
    host: Annotated[str, typer.Option(help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The gateway's port.", min=1, max=65535)] = 50051,
    triton_port: Annotated[
        int, typer.Option(help="Triton's gRPC port on loopback; its metrics come one higher.")
    ] = 18001,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain: use TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM authorities: require client certificates of theirs.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain text off loopback.")
    ] = False,
    allow_slot_choice: Annotated[
        bool, typer.Option("--allow-slot-choice", help="Callers may name a slot.")
    ] = False,
    strict_completion: Annotated[
        bool,
        typer.Option("--strict-completion", help="Always wait for the model's own end token."),
    ] = False,
    request_timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take at most.", min=0.1)
    ] = 30,
    log_format: Annotated[
        Literal["console", "json"], typer.Option(help="The gateway's log lines.")
    ] = "console",
) -> None:
    """Serve a slot until Ctrl-C or SIGTERM; what is accepted by then is still answered."""
    directory = slot_directory(slot)
    try:
        settings = Settings(
            slot=directory,
            triton=f"127.0.0.1:{triton_port}",
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            insecure=insecure,
            allow_slot_choice=allow_slot_choice,
            strict_completion=strict_completion,
            request_timeout_s=request_timeout,
            log_format=log_format,
        )
    except ValidationError as error:
        fail("; ".join(problem["msg"] for problem in error.errors()), code=2)
    log.configure(settings.log_format)
    console = Console(stderr=True)
    triton_log = RUN / f"triton-{directory.name}.log"
    try:
        with console.status(f"Checking {shown(directory)} ..."):
            Manifest.load(directory).check(directory)
        triton = Triton(
            directory, grpc_port=triton_port, metrics_port=triton_port + 1, log=triton_log
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # until _serve takes over
        try:
            with console.status("Starting Triton ..."):
                triton.start()
            asyncio.run(_serve(console, settings, triton, triton_log))
        finally:
            triton.stop()
    except (SlotInvalid, TritonFailed, OSError) as error:
        fail(str(error))
    except asyncio.CancelledError:
        fail("Cut off: what was in flight got no answer.")
    console.print("Stopped.")


async def _serve(console: Console, settings: Settings, triton: Triton, triton_log: Path) -> None:
    """Runs the gateway until a signal. Raises TritonFailed if Triton ends before."""
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (a coroutine under asyncio.run has one)

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()  # the second one cuts off what is in flight
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    died = asyncio.create_task(_died(triton))
    async with serving(settings) as gateway:
        with console.status("Waiting for the first verdicts ..."):
            await _first(gateway.ready.wait(), stop.wait(), died, timeout_s=_READY_S)
        if gateway.ready.is_set():
            console.print(_banner(settings, gateway, triton, triton_log))
        elif not died.done() and not stop.is_set():
            raise TritonFailed(f"The engine gave no verdict in {_READY_S} s. See {triton_log}.")
        await _first(stop.wait(), died)
        if died.done():
            raise TritonFailed(
                f"Triton ended by itself, so the server ends too. See {shown(triton_log)}, "
                "then start again."
            )
        console.print("Stopping: finishing what is accepted (again to cut it off) ...")
    died.cancel()


async def _first(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Returns when one of them is done, or at the timeout."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)


async def _died(triton: Triton) -> None:
    while triton.running:  # noqa: ASYNC110  (a process sets no event)
        await asyncio.sleep(_POLL_S)


def _banner(settings: Settings, gateway: Gateway, triton: Triton, triton_log: Path) -> Panel:
    manifest = gateway.slot.manifest
    security = "plain text"
    if settings.tls_cert:
        security = "mutual TLS" if settings.tls_client_ca else "TLS"
    lines = [
        f"Gateway  {settings.host}:{gateway.port}  gRPC, {security}",
        f"Triton   {triton.target}  log: {shown(triton_log)}",
        f"Model    {manifest.model.name}  {gateway.slot.fingerprint}  slot {gateway.slot.name}",
        f"Engine   {manifest.engine.kind} {manifest.engine.version}, {manifest.engine.weights}",
    ]
    if manifest.model.demonstration:
        lines.append("[yellow]This model is a demonstration: it must not moderate real traffic.[/]")
    lines.append("[dim]Try: make demo.  Stop: Ctrl-C.[/]")
    return Panel.fit("\n".join(lines), title="Qwen3Guard Server is ready", border_style="green")
