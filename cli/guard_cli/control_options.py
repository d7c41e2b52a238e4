"""Which running server or fleet a command operates on, and how it reaches the control plane."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard_cli.options import (
    DEFAULT_TARGET,
    CaOption,
    CertOption,
    JsonLinesOption,
    KeyOption,
    TargetOption,
    fail,
)
from guard_control.host import control_socket

if TYPE_CHECKING:
    from guard_cli.deployment_client import DeploymentClient

_ControlOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The server's control plane by TCP, with --tls-ca, --tls-cert and --tls-key. Not "
        "given: its socket on this machine, which is found by --target.",
    ),
]
_FleetOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FLEET.yaml",
        help="Several gateways instead of one server: the file says where they are, and which "
        "certificates they are shown.",
    ),
]
_CLIENT = "server"


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a Typer command the options that say which server, instead of its parameter `server`.

    That is a client of the server's DeploymentService, or of a fleet's.
    """
    own = [each for name, each in inspect.signature(command).parameters.items() if name != _CLIENT]

    def run(
        *,
        target: TargetOption = DEFAULT_TARGET,
        control: _ControlOption = None,
        tls_ca: CaOption = None,
        tls_cert: CertOption = None,
        tls_key: KeyOption = None,
        fleet: _FleetOption = None,
        json: JsonLinesOption = False,
        **given: Any,
    ) -> None:
        if fleet is None:
            server = _client(target, control, tls_ca, tls_cert, tls_key, json=json)
            command(server=server, **given)
            return
        if control or tls_ca or tls_cert or tls_key:
            fail("--fleet says it all: leave out --control and --tls-*.", code=2)
        with _fleet_client(fleet, json=json) as server:
            command(server=server, **given)

    *options, _ = inspect.signature(run).parameters.values()
    setattr(run, "__signature__", inspect.Signature([*own, *options]))  # noqa: B010
    run.__doc__ = command.__doc__
    return run


@contextmanager
def _fleet_client(fleet: Path, *, json: bool) -> "Iterator[DeploymentClient]":
    from guard_cli.deployment_client import DeploymentClient  # noqa: PLC0415
    from guard_cli.fleet_connection import fleet_controlled  # noqa: PLC0415

    with fleet_controlled(fleet) as control:
        yield DeploymentClient(control.address, None, json=json, slots=control.slots)


def _client(
    target: str,
    control: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    *,
    json: bool,
) -> "DeploymentClient":
    # gRPC and the contract take as long to load as all else, and help needs neither.
    from guard_cli.connection import credentials  # noqa: PLC0415
    from guard_cli.deployment_client import DeploymentClient  # noqa: PLC0415

    if control is None:
        if ca or cert or key:
            fail("--tls-ca, --tls-cert and --tls-key are for --control HOST:PORT.", code=2)
        return DeploymentClient(f"unix:{_socket(target)}", None, json=json)
    if not (ca and cert and key):
        fail(
            "--control is by TCP, where both sides need a certificate: give --tls-ca, --tls-cert "
            "and --tls-key too.",
            code=2,
        )
    return DeploymentClient(control, credentials(ca, cert, key), json=json)


def _socket(target: str) -> Path:
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        fail(f"--target {target}: give the server's address, HOST:PORT.", code=2)
    socket = control_socket.find(host.strip("[]"), int(port))
    if socket is None:
        fail(
            f"No `guard serve` of this user runs on {target}. Start one, or run this command on "
            "its machine as its user; --target names another address."
        )
    return socket
