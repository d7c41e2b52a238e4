"""The control plane of a fleet, which runs in the command's own process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from guard_cli.options import fail
from guard_control.api.fleet_service import fleet_served
from guard_control.gateways import fleet_file
from guard_control.gateways.fleet_file import FleetInvalid


@contextmanager
def fleet_controlled(path: Path) -> Iterator[str]:
    """Gives its gRPC address, of a socket of this user, for as long as the block runs.

    `path`: of FLEET.yaml. Ends the command if that can't be used.
    """
    try:
        fleet = fleet_file.load(path)
    except FleetInvalid as error:
        fail(str(error), code=2)
    with TemporaryDirectory(prefix="guard-") as directory, _loop() as loop:
        socket = Path(directory) / "control"
        served = fleet_served(fleet, socket)
        try:
            asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result()
        except OSError as error:
            fail(str(error))
        try:
            yield f"unix:{socket}"
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
