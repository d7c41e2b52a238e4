"""The control plane of a fleet, which runs in the command's own process."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import structlog

from guard_cli.options import fail
from guard_control.api.fleet_service import fleet_served
from guard_control.errors import PreconditionFailed
from guard_control.gateways import fleet_file
from guard_control.gateways.fleet_file import FleetInvalid


@dataclass(frozen=True, slots=True)
class FleetControl:
    """Where it is, as a gRPC address, and the fleet's slots: their files here by name."""

    address: str
    slots: Mapping[str, Path]


@contextmanager
def fleet_controlled(path: Path) -> Iterator[FleetControl]:
    """Runs it, on a socket of this user, for as long as the block runs.

    `path`: of FLEET.yaml. Ends the command if that can't be used.
    """
    try:
        fleet = fleet_file.load(path)
    except FleetInvalid as error:
        fail(str(error), code=2)
    # What is logged is printed too, by the command.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with TemporaryDirectory(prefix="guard-") as directory, _loop() as loop:
        socket = Path(directory) / "control"
        served = fleet_served(fleet, socket)
        try:
            asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result()
        except (OSError, PreconditionFailed) as error:
            fail(str(error))
        try:
            yield FleetControl(f"unix:{socket}", {name: fleet.files(name) for name in fleet.slots})
        finally:
            asyncio.run_coroutine_threadsafe(served.__aexit__(None, None, None), loop).result()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs beside the block, which waits for answers of it."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
