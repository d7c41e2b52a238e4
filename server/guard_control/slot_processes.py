"""The slots of this machine: a Triton for each, started again when it dies."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from guard_control.errors import NoSuchSlot
from guard_control.events import Events
from guard_control.triton_process import Triton, TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import SlotTraffic

_POLL_S = 0.2
_RESTART_S = (0.5, 30.0)  # first and longest pause
_STEADY_S = 60  # a Triton that ran for so long starts with the first pause again


class LocalSlot:
    """A slot whose Triton runs here."""

    def __init__(self, directory: Path, triton: Triton, manifest: Manifest, events: Events) -> None:
        self.name = directory.name
        self.directory = directory
        self.triton = triton
        self.manifest = manifest
        self.restarts = 0
        self.starting = True
        self._events = events
        self._keeper: asyncio.Task[None] | None = None

    def traffic(self, weight: int) -> SlotTraffic:
        """Its fingerprint goes along: gateways refuse files that were built again meanwhile."""
        return SlotTraffic(
            directory=self.directory,
            triton=self.triton.target,
            fingerprint=self.manifest.fingerprint,
            weight=weight,
        )

    async def start(self, timeout_s: float) -> None:
        """Returns when Triton has loaded the model. Raises TritonFailed or SlotInvalid."""
        await self._start(timeout_s)
        self._keeper = asyncio.create_task(self._keep(timeout_s))

    async def stop(self) -> None:
        """Ends its Triton, which is not started again. What is in flight there has ten seconds."""
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
            while not task.done():  # it notices only once its process is there, and gone
                await asyncio.to_thread(self.triton.stop, 0)
                await asyncio.wait({task}, timeout=_POLL_S)
            with contextlib.suppress(TritonFailed, SlotInvalid):
                task.result()
                await asyncio.to_thread(self.triton.stop)
            raise
        self.starting = False

    async def _keep(self, timeout_s: float) -> None:
        """Starts a Triton that died again, for as long as it takes."""
        loop = asyncio.get_running_loop()
        pause, longest = _RESTART_S
        while True:
            begun = loop.time()
            while self.triton.running:  # noqa: ASYNC110  (a process sets no event)
                await asyncio.sleep(_POLL_S)
            if loop.time() - begun > _STEADY_S:
                pause = _RESTART_S[0]
            self._events.tell(
                f"Triton died; starting it again in {pause:g} s. Its log says more: "
                f"{self.triton.log}",
                slot=self.name,
                alarm=True,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                await asyncio.to_thread(self.triton.stop, 0)  # what is left of the dead one
                await self._start(timeout_s)
            except (TritonFailed, SlotInvalid, OSError) as error:
                self._events.tell(f"Triton did not start: {error}", slot=self.name, alarm=True)
                continue
            self.restarts += 1
            self._events.tell("Triton runs again.", slot=self.name)


class LocalSlots:
    """All of them, by name."""

    def __init__(self, run: Path, first_port: int, events: Events) -> None:
        """`run`: where Tritons' logs go. The first slot's Triton takes `first_port` for gRPC and
        the next port for metrics, the second one's the two after them, and so on.
        """
        self._run = run
        self._first_port = first_port
        self._events = events
        self._slots: dict[str, LocalSlot] = {}
        self._ports: dict[str, int] = {}

    def __iter__(self) -> Iterator[LocalSlot]:
        return iter(self._slots.values())

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> LocalSlot:
        """Raises NoSuchSlot."""
        try:
            return self._slots[name]
        except KeyError:
            known = ", ".join(sorted(self._slots))
            raise NoSuchSlot(f"No slot named {name!r} runs; there are: {known}.") from None

    async def start(self, directory: Path, timeout_s: float) -> LocalSlot:
        """Starts the Triton of a slot whose name is free. Raises TritonFailed or SlotInvalid."""
        name = directory.name
        used = set(self._ports.values())
        port = next(p for p in range(self._first_port, 65535, 2) if p not in used)
        log = self._run / f"triton-{name}.log"
        triton = Triton(directory, grpc_port=port, metrics_port=port + 1, log=log)
        slot = LocalSlot(directory, triton, Manifest.load(directory), self._events)
        self._slots[name], self._ports[name] = slot, port
        try:
            await slot.start(timeout_s)
        except BaseException:
            del self._slots[name], self._ports[name]
            raise
        return slot

    async def stop(self, name: str) -> None:
        slot = self._slots.pop(name)
        await slot.stop()
        del self._ports[name]

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self._slots)))
