"""`guard serve`: the slots' Tritons, the gateway processes before them, and the control plane."""

import asyncio
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from guard_cli.options import MODEL_REPOSITORY, RUN, fail, shown, slot_directory
from guard_cli.settings_options import SettingsInvalid, gateway_settings, with_settings
from guard_control.api.listener import ControlTcp
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


_CONTROL = "The control plane by TCP"
_ControlFile = Annotated[
    Path | None, typer.Option(help="PEM; see the gateway's --tls-*.", rich_help_panel=_CONTROL)
]


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
    replicas: Annotated[
        int,
        typer.Option(
            help="Tritons of each slot, which share its requests; of a GPU engine each has a GPU.",
            min=1,
        ),
    ] = 1,
    deploy_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="A directory below which `guard deploy` may find slots, beside the model "
            "repository; repeat it for several."
        ),
    ] = None,
    triton_port: Annotated[
        int,
        typer.Option(
            help="The first Triton has this number in its socket's name, and its metrics on the "
            "next port of loopback; the next one's are 2 higher."
        ),
    ] = 18001,
    control_host: Annotated[
        str, typer.Option(help="Address of the control plane's port.", rich_help_panel=_CONTROL)
    ] = "127.0.0.1",
    control_port: Annotated[
        int | None,
        typer.Option(
            help="Open the control plane by TCP too, with mutual TLS; by default it is a socket of "
            "this user.",
            min=1,
            max=65535,
            rich_help_panel=_CONTROL,
        ),
    ] = None,
    control_tls_cert: _ControlFile = None,
    control_tls_key: _ControlFile = None,
    control_tls_client_ca: _ControlFile = None,
    **options: Any,
) -> None:
    """Serve until Ctrl-C or SIGTERM; what is accepted by then is still answered."""
    try:
        settings = gateway_settings(options, RUN / traffic.FILE_NAME)
    except SettingsInvalid as error:
        fail(str(error), code=2)
    if not settings.port:
        fail("--port: choose one; its number names the state that a restart goes on from.", code=2)
    control = _control(
        control_host, control_port, control_tls_cert, control_tls_key, control_tls_client_ca
    )
    log.configure(settings.log_format)
    console = Console(stderr=True)
    server = _Server(console, settings, control)
    try:
        for files in (certificates.files_of(settings), control and control.files):
            if files:
                certificates.read(files)  # before Triton starts: they would be refused late
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
                    replicas=replicas,
                    deploy_roots=(MODEL_REPOSITORY, *(deploy_root or ())),
                    control=control,
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


def _control(
    host: str, port: int | None, cert: Path | None, key: Path | None, client_ca: Path | None
) -> ControlTcp | None:
    if port and cert and key and client_ca:
        return ControlTcp(host, port, certificates.CertificateFiles(cert, key, client_ca))
    if port or cert or key or client_ca:
        fail(
            "The control plane by TCP takes mutual TLS only: give --control-port, "
            "--control-tls-cert, --control-tls-key and --control-tls-client-ca together, or none "
            "of them. `guard slots`, `deploy` and the others find its socket by --target.",
            code=2,
        )
    return None


class _Server:
    """One run of the server, on the terminal."""

    def __init__(self, console: Console, settings: Settings, control: ControlTcp | None) -> None:
        self._console = console
        self._settings = settings
        self._control = control
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

    def _control_address(self) -> str:
        tcp = self._control
        return f"a socket of this user, {tcp.host}:{tcp.port}" if tcp else "a socket of this user"

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
            f"Control  {self._control_address()}  guard slots, deploy, promote, rollback",
            *(
                [f"Metrics  http://127.0.0.1:{settings.metrics_port}/metrics"]
                if settings.metrics_port
                else []
            ),
            *(f"Triton   {one.target}  log: {shown(one.log)}" for one in slot.tritons),
            f"Model    {manifest.model.name}  {manifest.fingerprint}  slot {slot.name}",
            f"Engine   {manifest.engine.kind} {manifest.engine.version}, {manifest.engine.weights}",
        ]
        if manifest.model.demonstration:
            lines.append(
                "[yellow]This model is a demonstration: it must not moderate real traffic.[/]"
            )
        lines.append("[dim]Try: guard moderate 'How do I boil an egg?'  Stop: Ctrl-C.[/]")
        return Panel.fit("\n".join(lines), title="Qwen3Guard Server is ready", border_style="green")
