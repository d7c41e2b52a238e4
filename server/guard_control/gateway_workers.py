"""The gateway workers: processes on one port, each restarted when it dies, and their statuses."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from guard_control.events import Events
from guard_control.host.child_process import kill_with_parent
from guard_control.keeper import persist
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.settings import Settings
from guard_server.telemetry import metric_sums, worker_status
from guard_server.telemetry.metric_sums import Family
from guard_server.telemetry.supervisor_link import WorkerLink

_RESTART_S = (0.5, 30.0)  # first and longest pause
_STEADY_S = 60  # a worker that ran for so long restarts after the first pause again
_POLL_S = 0.05
_METRICS_S = 1.0  # a worker's time to answer a scrape
_LOOK_S = 0.25
_SILENT_S = 5.0  # without a heartbeat: the worker's event loop stands still
_STARTING_S = 120.0  # as long until its first one


class WorkersFailed(Exception):
    """A worker ended before it served; its own message is on standard error."""


class Workers:
    """Keeps `count` workers running from `start` until `stop` or `kill`."""

    def __init__(self, count: int, settings: Settings, events: Events) -> None:
        """`settings`: of each worker; its `status` must be set."""
        assert settings.status is not None  # noqa: S101  (the supervisor sets it)
        self._status = settings.status
        self._settings = settings.model_copy(update={"reuse_port": count > 1})
        self._count = count
        self._events = events
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._links: dict[int, WorkerLink] = {}  # by process id
        self._ended: Sequence[Family] = ()  # what workers counted that have ended
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, timeout_s: float) -> None:
        """Returns when every worker has published its status. Raises WorkersFailed."""
        self._status.mkdir(parents=True, exist_ok=True)
        for old in self._status.glob("*.json"):
            old.unlink()
        first = [await self._spawn(number) for number in range(self._count)]
        self._keepers = [
            asyncio.create_task(self._keep(number, process)) for number, process in enumerate(first)
        ]
        silent = persist(self._end_silent, "Looking after gateway processes", self._events)
        self._keepers.append(asyncio.create_task(silent))
        async with asyncio.timeout(timeout_s):
            while len(self.snapshot().statuses) < self._count:
                for process in first:
                    if process.returncode is not None:
                        raise WorkersFailed(
                            f"A gateway process ended with code {process.returncode} before it "
                            "served. Its message is above."
                        )
                await asyncio.sleep(_POLL_S)

    def snapshot(self) -> WorkerSnapshot:
        """Reads every worker's status file. On one machine a process id names a worker."""
        return WorkerSnapshot(
            frozenset(self._running),
            tuple(
                status.model_copy(update={"id": ""})
                for status in worker_status.read(self._status)
                if status.pid in self._running
            ),
        )

    async def metrics(self) -> Sequence[Family]:
        """The sum over all workers. A worker that does not answer counts as it did last."""
        links = list(self._links.values())
        found = await asyncio.gather(*(link.metrics(_METRICS_S) for link in links))
        return metric_sums.summed([self._ended, *found])

    def read_certificates(self) -> None:
        """Has each read its certificates again."""
        for pid, link in self._links.items():
            if link.began:  # before that it reads them anyway, and the signal would end it
                with contextlib.suppress(ProcessLookupError):
                    self._running[pid].send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """Lets each reject new requests and finish those that it has accepted."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Cuts off requests in flight."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        self._stopping = True
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        await asyncio.gather(*(process.wait() for process in self._running.values()))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _spawn(self, number: int) -> asyncio.subprocess.Process:
        link = WorkerLink()
        end = link.workers_end.fileno()
        try:
            process = await asyncio.create_subprocess_exec(
                # Its Tritons are killed in the same moment: it could finish no call, and one that
                # stands still would follow no other signal.
                *kill_with_parent([sys.executable, "-m", "guard_server"], signal.SIGKILL),
                env=_environment(
                    self._settings.model_copy(update={"supervisor": end, "worker": number})
                ),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(end,),
                start_new_session=True,  # the supervisor gets Ctrl-C and passes it on
            )
        except BaseException:
            link.close()
            raise
        self._links[process.pid] = link.open()
        self._running[process.pid] = process
        return process

    async def _end_silent(self) -> None:
        """Kills a worker without heartbeats, one at a time: its keeper starts another one."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = loop.time()
            # If more time passed, this process itself did not run, and read no heartbeat.
            passed_s = min(now - last, 2 * _LOOK_S)
            last = now
            links = self._links
            silent = {pid: link.silent_s(passed_s) for pid, link in links.items()}
            replacing = len(links) < self._count or not all(link.began for link in links.values())
            for pid, link in links.items():
                limit_s = _SILENT_S if link.began else _STARTING_S
                if silent[pid] >= limit_s and not (replacing and link.began):
                    await self._kill_silent(pid, limit_s)
                    break

    async def _kill_silent(self, pid: int, limit_s: float) -> None:
        self._events.publish(
            f"Gateway process {pid} has not run for {limit_s:g} s: killing it.", alarm=True
        )
        process = self._running[pid]
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def _forget(self, pid: int) -> None:
        """A worker has ended: its counters stay in the sum, its gauges do not."""
        self._running.pop(pid, None)
        # So that the others share its part of the limits at once.
        with contextlib.suppress(OSError):
            (self._status / f"{pid}.json").unlink()
        if link := self._links.pop(pid, None):
            left = metric_sums.without_gauges(link.families)
            self._ended = metric_sums.summed([self._ended, left])
            link.close()

    async def _keep(self, number: int, process: asyncio.subprocess.Process) -> None:
        """Starts another worker when this one dies, and so on."""
        loop = asyncio.get_running_loop()
        pause, longest = _RESTART_S
        while True:
            begun = loop.time()
            code = await process.wait()
            self._forget(process.pid)
            if self._stopping:
                return
            if loop.time() - begun > _STEADY_S:
                pause = _RESTART_S[0]
            self._events.publish(
                f"Gateway process {process.pid} ended with code {code}; starting another one in "
                f"{pause:g} s.",
                alarm=True,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            spawn = partial(self._spawn, number)
            process = await persist(spawn, "Starting a gateway process", self._events)


def _environment(settings: Settings) -> Mapping[str, str]:
    """This process's environment, with `settings` instead of its GUARD_* variables."""
    left_out = ("GUARD_", "PROMETHEUS_MULTIPROC_DIR")  # the other one makes files of the metrics
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    given = settings.model_dump(mode="json", exclude_none=True)
    return kept | {f"GUARD_{name.upper()}": str(value) for name, value in given.items()}
