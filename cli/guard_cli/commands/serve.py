"""`guard serve`: the slots' Tritons, the gateway processes before them, and the control plane."""

import asyncio
import signal
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from guard_cli.options import MODEL_REPOSITORY, RUN, shown, slot_directory
from guard_cli.server_output import ServerOutput, server_output
from guard_cli.settings_options import SettingsInvalid, gateway_settings, with_settings
from guard_control.api.listener import ControlTcp
from guard_control.errors import OperationError
from guard_control.fleets.local_fleet import LocalFleet
from guard_control.gateway_workers import WorkersFailed
from guard_control.host.ownership import run_directory
from guard_control.slot_processes import SlotProcess
from guard_control.supervisor import InitialTraffic, supervising
from guard_control.triton_process import TritonFailed
from guard_core.errors import CertificateInvalid, SlotInvalid, TenantsInvalid, TrafficInvalid
from guard_core.slot import traffic
from guard_server.settings import Settings
from guard_server.tenants.tenants import Tenants
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
            metavar="PORT",
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
    output = server_output(options["log_format"])
    try:
        settings = gateway_settings(options, RUN / traffic.FILE_NAME)
    except SettingsInvalid as error:
        output.fail(str(error), code=2)
    if not settings.port:
        output.fail(
            "--port: choose one; its number names the state that a restart goes on from.", code=2
        )
    control = _control(
        output, control_host, control_port, control_tls_cert, control_tls_key, control_tls_client_ca
    )
    server = _Server(output, settings, control)
    try:
        for files in (certificates.files_of(settings), control and control.files):
            if files:
                certificates.read(files)  # before Triton starts: they would be refused late
        Tenants(settings)
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
        output.fail(f"{error} Name the slot to serve: `guard serve --slot NAME`.")
    except (
        SlotInvalid,
        CertificateInvalid,
        TenantsInvalid,
        TritonFailed,
        WorkersFailed,
        OperationError,
        OSError,
    ) as error:
        output.fail(str(error))
    except asyncio.CancelledError:
        output.fail("Cut off: what was in flight got no answer.")
    output.say("Stopped.")


def _control(
    output: ServerOutput,
    host: str,
    port: int | None,
    cert: Path | None,
    key: Path | None,
    client_ca: Path | None,
) -> ControlTcp | None:
    if port and cert and key and client_ca:
        return ControlTcp(host, port, certificates.CertificateFiles(cert, key, client_ca))
    if port or cert or key or client_ca:
        output.fail(
            "The control plane by TCP takes mutual TLS only: give --control-port, "
            "--control-tls-cert, --control-tls-key and --control-tls-client-ca together, or none "
            "of them. `guard slots`, `deploy` and the others find its socket by --target.",
            code=2,
        )
    return None


class _Server:
    """One run of the server, and what it says."""

    def __init__(
        self, output: ServerOutput, settings: Settings, control: ControlTcp | None
    ) -> None:
        self._output = output
        self._settings = settings
        self._control = control
        self._ready = False
        self._fleet: LocalFleet | None = None
        self._stop = asyncio.Event()

    async def run(self, supervised: AbstractAsyncContextManager[LocalFleet]) -> None:
        """Until a signal. One before it is ready, or a second one, raises CancelledError."""
        task = asyncio.create_task(self._run(supervised))

        def on_signal() -> None:
            if self._stop.is_set() or not self._ready:
                task.cancel()
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        await task

    def _hung_up(self) -> None:
        if self._fleet is None or not self._settings.tls_cert:
            self._output.say("SIGHUP is ignored: the gateway has no certificates to read again.")
        else:
            self._output.say("SIGHUP: the gateway reads its certificates again.")
            self._fleet.workers.read_certificates()

    async def _run(self, supervised: AbstractAsyncContextManager[LocalFleet]) -> None:
        with ExitStack() as starting:
            starting.enter_context(
                self._output.doing("Starting Triton, then waiting for the first verdicts ...")
            )
            async with supervised as fleet:
                await fleet.until_ready(fleet.active, _READY_S)
                starting.close()
                self._ready, self._fleet = True, fleet
                self._banner(fleet)
                await self._stop.wait()
                self._output.say("Stopping: finishing what is accepted (again to cut it off) ...")

    def _banner(self, fleet: LocalFleet) -> None:
        settings, slot = self._settings, fleet.slots[fleet.active]
        model = slot.manifest.model
        security = "plain text"
        if settings.tls_cert:
            security = "mutual TLS" if settings.tls_client_ca else "TLS"
        processes = len(fleet.snapshot().statuses)
        tcp = self._control
        facts = {
            "Gateway": f"{settings.host}:{settings.port}  gRPC, {security}"
            + (f", {processes} processes" if processes > 1 else ""),
            "Control": "a socket of this user" + (f", {tcp.host}:{tcp.port}" if tcp else ""),
            "Metrics": f"http://{settings.metrics_host}:{settings.metrics_port}/metrics",
            **_tritons(slot),
            "Model": f"{model.name}  {slot.manifest.fingerprint}  slot {slot.name}",
            "Engine": slot.manifest.engine.summary,
        }
        if not settings.metrics_port:
            del facts["Metrics"]
        notes = [
            "[dim]Operate: guard slots, deploy, promote, rollback.  Stop: Ctrl-C.[/]",
            "[dim]Try: guard moderate 'How do I boil an egg?'[/]",
        ]
        if model.demonstration:
            notes.insert(
                0, "[yellow]This model is a demonstration: it must not moderate real traffic.[/]"
            )
        self._output.ready("Qwen3Guard Server is ready", facts, *notes)


def _tritons(slot: SlotProcess) -> dict[str, str]:
    """The address and the log of each."""
    facts: dict[str, str] = {}
    for number, one in enumerate(slot.tritons, 1):
        which = f" {number}" if len(slot.tritons) > 1 else ""
        facts |= {f"Triton{which}": one.target, f"Its log{which}": shown(one.log)}
    return facts
