"""The slots that run on this machine: one Triton for each, restarted when it dies."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from guard_control.events import Events
from guard_control.host.ownership import PortClaim, PortTaken
from guard_control.triton_process import TritonDied, TritonFailed, TritonProcess
from guard_control.triton_watch import TritonWatch
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import SlotTraffic

_POLL_S = 0.2
_RESTART_S = (0.5, 30.0)  # first and longest pause
_FIRST_TRIES = 3
_STEADY_S = 10  # a Triton that ran for so long restarts after the first pause again


class SlotProcess:
    """One slot and its Triton."""

    def __init__(
        self,
        directory: Path,
        triton: TritonProcess,
        manifest: Manifest,
        events: Events,
        *,
        out_s: float,
    ) -> None:
        """`out_s`: after so long without the model Triton is made to load it, then restarted; after
        so long without an answer, of Triton or of the engine, it is restarted.
        """
        self.name = directory.name
        self.directory = directory
        self.triton = triton
        self.manifest = manifest
        self.restarts = 0
        self.starting = True
        self._events = events
        self._out_s = out_s
        self._keeper: asyncio.Task[None] | None = None

    def traffic(self, weight: int) -> SlotTraffic:
        """Its entry in traffic.json; gateways refuse it if the files have another fingerprint."""
        return SlotTraffic(
            directory=self.directory,
            triton=self.triton.target,
            fingerprint=self.manifest.fingerprint,
            weight=weight,
        )

    async def start(self, timeout_s: float) -> None:
        """Returns when Triton has loaded the model. Raises TritonFailed or SlotInvalid.

        One that dies while it starts is started again, twice.
        """
        pause, _ = _RESTART_S
        for left in range(_FIRST_TRIES - 1, -1, -1):
            try:
                await self._start(timeout_s)
            except TritonDied as error:
                if not left:
                    raise
                self._events.publish(
                    f"{error}\nStarting it again in {pause:g} s.", slot=self.name, alarm=True
                )
                await asyncio.sleep(pause)
                pause *= 2
            else:
                break
        self._keeper = asyncio.create_task(self._keep(timeout_s))

    async def stop(self) -> None:
        """Ends its Triton for good. Requests in flight there have ten seconds to finish."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await asyncio.to_thread(self.triton.stop)

    async def _start(self, timeout_s: float) -> None:
        self.starting = True
        task = asyncio.create_task(asyncio.to_thread(self.triton.start, timeout_s))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():  # the thread ends once its process has started and is gone
                await asyncio.to_thread(self.triton.stop, 0)
                await asyncio.wait({task}, timeout=_POLL_S)
            with contextlib.suppress(TritonFailed, SlotInvalid):
                task.result()
                await asyncio.to_thread(self.triton.stop)
            raise
        self.starting = False

    async def _keep(self, timeout_s: float) -> None:
        """Restarts a Triton that is out, with longer pauses, until it runs."""
        loop = asyncio.get_running_loop()
        pause, longest = _RESTART_S
        while True:
            begun = loop.time()
            watch = TritonWatch(
                self.name, self.triton, self._events, out_s=self._out_s, load_s=timeout_s
            )
            reason = await watch.until_out()
            if loop.time() - begun > _STEADY_S:
                pause = _RESTART_S[0]
            self._events.publish(
                f"{reason}; starting it again in {pause:g} s. Its log has more: {self.triton.log}",
                slot=self.name,
                alarm=True,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                await asyncio.to_thread(self.triton.stop, 0)  # what is left of the dead one
                await self._start(timeout_s)
            except (TritonFailed, SlotInvalid, OSError) as error:
                self._events.publish(f"Triton did not start: {error}", slot=self.name, alarm=True)
                continue
            self.restarts += 1
            self._events.publish("Triton runs again.", slot=self.name)


class SlotProcesses:
    """All slots that run or start, by name."""

    def __init__(self, run: Path, first_port: int, events: Events, *, out_s: float = 10.0) -> None:
        """`run`: the directory for Tritons' logs. The first slot's Triton has the number
        `first_port` in its socket's name and takes the next port for metrics, the second slot's the
        two after these, and so on.
        `out_s`: see SlotProcess.
        """
        self._run = run
        self._first_port = first_port
        self._events = events
        self._out_s = out_s
        self._slots: dict[str, SlotProcess] = {}
        self._ports: dict[str, PortClaim] = {}

    def __iter__(self) -> Iterator[SlotProcess]:
        return iter(self._slots.values())

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> SlotProcess:
        return self._slots[name]

    async def start(
        self, directory: Path, timeout_s: float, socket: Path | None = None
    ) -> SlotProcess:
        """Starts the Triton of a slot whose name is free; its socket is in memory by default.

        Raises TritonFailed or SlotInvalid.
        """
        name = directory.name
        manifest = Manifest.load(directory)
        used = {claim.port for claim in self._ports.values()}
        port = next(p for p in range(self._first_port, 65535, 2) if p not in used)
        try:
            self._ports[name] = PortClaim(port)
        except PortTaken as error:
            raise TritonFailed(str(error)) from None
        log = self._run / f"triton-{name}.log"
        triton = TritonProcess(
            directory, grpc_port=port, metrics_port=port + 1, log=log, socket=socket
        )
        slot = SlotProcess(directory, triton, manifest, self._events, out_s=self._out_s)
        self._slots[name] = slot
        try:
            await slot.start(timeout_s)
        except BaseException:
            del self._slots[name]
            self._ports.pop(name).release()
            raise
        return slot

    async def stop(self, name: str) -> None:
        slot = self._slots.pop(name)
        await slot.stop()
        self._ports.pop(name).release()

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self._slots)))
