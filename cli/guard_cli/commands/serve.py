"""`guard serve`: the slots' Tritons, the gateway processes before them, and the control plane."""

import asyncio
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from guard_cli.options import RUN, fail, shown, slot_directory
from guard_cli.settings_options import SettingsInvalid, gateway_settings, with_settings
from guard_control.errors import OperationError
from guard_control.fleet import Fleet
from guard_control.gateway_workers import WorkersFailed
from guard_control.host.ownership import run_directory
from guard_control.supervisor import InitialTraffic, supervising
from guard_control.triton_process import TritonFailed
from guard_core.errors import CertificateInvalid, SlotInvalid, TrafficInvalid
from guard_core.slot import traffic
from guard_server import log
from guard_server.settings import Settings
from guard_server.tls import certificates

_READY_S = 180


@with_settings
def serve(
    slot: Annotated[
        Path | None,
        typer.Option(
            envvar="GUARD_SLOT",
            help="The slot: its name or directory. Not given: what had the traffic when the server "
            "on this address was stopped, and blue the first time.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Gateway processes on one port.", min=1)] = 1,
    control_port: Annotated[
        int, typer.Option(help="Port on loopback for guard slots, deploy, ...", min=1, max=65535)
    ] = 50052,
    triton_port: Annotated[
        int,
        typer.Option(
            help="gRPC port on loopback of the first slot's Triton; its metrics come one higher, "
            "the next slot's two after these."
        ),
    ] = 18001,
    **options: Any,
) -> None:
    """Serve until Ctrl-C or SIGTERM; what is accepted by then is still answered."""
    try:
        settings = gateway_settings(options, RUN / traffic.FILE_NAME)
    except SettingsInvalid as error:
        fail(str(error), code=2)
    if not settings.port:
        fail("--port: choose one; its number names the state that a restart goes on from.", code=2)
    log.configure(settings.log_format)
    console = Console(stderr=True)
    server = _Server(console, settings, control_port)
    try:
        if files := certificates.files_of(settings):
            certificates.read(files)  # before Triton starts: the workers would refuse them late
        run = run_directory(RUN, settings.host, settings.port)
        initial = InitialTraffic.resume(run) if slot is None else None
        initial = initial or InitialTraffic.single(slot_directory(slot or Path("blue")).resolve())
        asyncio.run(
            server.run(
                supervising(
                    initial,
                    settings,
                    run=run,
                    workers=workers,
                    triton_port=triton_port,
                    control_port=control_port,
                )
            )
        )
    except TrafficInvalid as error:
        fail(f"{error} Name the slot to serve: `guard serve --slot NAME`.")
    except (
        SlotInvalid,
        CertificateInvalid,
        TritonFailed,
        WorkersFailed,
        OperationError,
        OSError,
    ) as error:
        fail(str(error))
    except asyncio.CancelledError:
        fail("Cut off: what was in flight got no answer.")
    console.print("Stopped.")


class _Server:
    """One run of the server, on the terminal."""

    def __init__(self, console: Console, settings: Settings, control_port: int) -> None:
        self._console = console
        self._settings = settings
        self._control_port = control_port
        self._ready = False
        self._stop = asyncio.Event()

    async def run(self, supervised: AbstractAsyncContextManager[Fleet]) -> None:
        """Until a signal. One before it is ready, or a second one, raises CancelledError."""
        task = asyncio.create_task(self._run(supervised))

        def on_signal() -> None:
            if self._stop.is_set() or not self._ready:
                task.cancel()
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        await task

    async def _run(self, supervised: AbstractAsyncContextManager[Fleet]) -> None:
        status = self._console.status("Starting Triton, then waiting for the first verdicts ...")
        status.start()
        try:
            async with supervised as fleet:
                await fleet.until_ready(fleet.active, _READY_S)
                status.stop()
                self._ready = True
                self._console.print(self._banner(fleet))
                await self._stop.wait()
                self._console.print(
                    "Stopping: finishing what is accepted (again to cut it off) ..."
                )
        finally:
            status.stop()

    def _banner(self, fleet: Fleet) -> Panel:
        settings, slot = self._settings, fleet.slots[fleet.active]
        manifest = slot.manifest
        security = "plain text"
        if settings.tls_cert:
            security = "mutual TLS" if settings.tls_client_ca else "TLS"
        processes = len(fleet.snapshot().statuses)
        lines = [
            f"Gateway  {settings.host}:{settings.port}  gRPC, {security}"
            + (f", {processes} processes" if processes > 1 else ""),
            f"Control  127.0.0.1:{self._control_port}  guard slots, deploy, promote, rollback",
            *(
                [f"Metrics  http://127.0.0.1:{settings.metrics_port}/metrics"]
                if settings.metrics_port
                else []
            ),
            f"Triton   {slot.triton.target}  log: {shown(slot.triton.log)}",
            f"Model    {manifest.model.name}  {manifest.fingerprint}  slot {slot.name}",
            f"Engine   {manifest.engine.kind} {manifest.engine.version}, {manifest.engine.weights}",
        ]
        if manifest.model.demonstration:
            lines.append(
                "[yellow]This model is a demonstration: it must not moderate real traffic.[/]"
            )
        lines.append("[dim]Try: guard moderate 'How do I boil an egg?'  Stop: Ctrl-C.[/]")
        return Panel.fit("\n".join(lines), title="Qwen3Guard Server is ready", border_style="green")
