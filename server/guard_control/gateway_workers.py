"""The gateway processes: as many as asked for, on one port, each started again when it dies."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping

from guard_control.child_process import bound
from guard_control.events import Events
from guard_server.settings import Settings
from guard_server.telemetry import prometheus as metrics
from guard_server.telemetry import worker_status as status
from guard_server.telemetry.worker_status import WorkerStatus

_RESTART_S = (0.5, 30.0)  # first and longest pause
_STEADY_S = 60
_POLL_S = 0.05


class WorkersFailed(Exception):
    """A gateway process ended before it served; it has said why on standard error."""


class Workers:
    """From `start` until `stop` or `kill`, as many processes as asked for are kept running."""

    def __init__(self, count: int, settings: Settings, events: Events) -> None:
        """`settings` of each process; `status` among them must be set."""
        assert settings.status is not None  # noqa: S101  (the supervisor sets it)
        self._status = settings.status
        self.metrics = settings.status.with_name("metrics")  # where each writes its own
        self._environment = {
            **_environment(settings.model_copy(update={"reuse_port": count > 1})),
            metrics.SHARED: str(self.metrics),
        }
        self._count = count
        self._events = events
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, timeout_s: float) -> None:
        """Returns when each has told its state. Raises WorkersFailed."""
        self._status.mkdir(parents=True, exist_ok=True)
        for old in self._status.glob("*.json"):
            old.unlink()
        self.metrics.mkdir(exist_ok=True)
        for old in self.metrics.glob("*.db"):
            old.unlink()
        first = [await self._spawn() for _ in range(self._count)]
        self._keepers = [asyncio.create_task(self._keep(process)) for process in first]
        async with asyncio.timeout(timeout_s):
            while len(self.statuses()) < self._count:
                for process in first:
                    if process.returncode is not None:
                        raise WorkersFailed(
                            f"A gateway process ended with code {process.returncode} before it "
                            "served; its reason stands above."
                        )
                await asyncio.sleep(_POLL_S)

    def statuses(self) -> list[WorkerStatus]:
        """Of each process that runs and has told its state."""
        return [found for found in status.read(self._status) if found.pid in self._running]

    def all_told(self) -> bool:
        """Whether every process that runs has told its state: a silent one may do anything."""
        told = {found.pid for found in self.statuses()}
        return bool(told) and told == self._running.keys()

    async def stop(self) -> None:
        """Has each refuse what is new and finish what it has accepted."""
        self._stopping = True
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in self._running.values()))
        await self._end()

    async def kill(self) -> None:
        """Cuts off what is in flight."""
        self._stopping = True
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._running.values()))
        await self._end()

    async def _end(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *bound([sys.executable, "-m", "guard_server"]),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the supervisor to pass on
        )
        self._running[process.pid] = process
        return process

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pause, longest = _RESTART_S
        while True:
            begun = loop.time()
            code = await process.wait()
            self._running.pop(process.pid, None)
            metrics.forget(self.metrics, process.pid)
            if self._stopping:
                return
            if loop.time() - begun > _STEADY_S:
                pause = _RESTART_S[0]
            self._events.tell(
                f"Gateway process {process.pid} ended with code {code}; starting another one in "
                f"{pause:g} s.",
                alarm=True,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            process = await self._spawn()


def check_port(host: str, port: int) -> None:
    """Raises OSError if somebody listens there: with a shared port nobody else would notice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"Can't listen on {host}:{port}: is the port in use? ({error.strerror})"
            ) from None


def _environment(settings: Settings) -> Mapping[str, str]:
    """This process's own, with `settings` instead of any GUARD_* that it holds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
    given = settings.model_dump(mode="json", exclude_none=True)
    return kept | {f"GUARD_{name.upper()}": str(value) for name, value in given.items()}
