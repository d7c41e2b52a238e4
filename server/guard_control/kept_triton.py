"""A Triton of a slot that is kept running: watched, and started again when it is out."""

import asyncio
import contextlib
from functools import partial

from guard_control.events import Events
from guard_control.keeper import persist
from guard_control.triton_process import TritonDied, TritonFailed, TritonProcess
from guard_control.triton_watch import TritonWatch
from guard_core.errors import SlotInvalid

_POLL_S = 0.2
_RESTART_S = (0.5, 30.0)  # first and longest pause
_FIRST_TRIES = 3
_STEADY_S = 10  # a Triton that ran for so long restarts after the first pause again


class KeptTriton:
    """One Triton, from `start` to `stop`."""

    def __init__(self, slot: str, process: TritonProcess, events: Events, *, out_s: float) -> None:
        """`slot`: its name. `out_s`: after so long without the model Triton is made to load it,
        then restarted; after so long without an answer, of Triton or the engine, it is restarted.
        """
        self.process = process
        self.restarts = 0
        self.starting = True
        self._slot = slot
        self._events = events
        self._out_s = out_s
        self._keeper: asyncio.Task[None] | None = None

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
                    f"{error}\nStarting it again in {pause:g} s.", slot=self._slot, alarm=True
                )
                await asyncio.sleep(pause)
                pause *= 2
            else:
                break
        keeping = persist(
            partial(self._keep, timeout_s), f"Keeping {self._slot}'s Triton", self._events
        )
        self._keeper = asyncio.create_task(keeping)

    async def stop(self) -> None:
        """Ends its Triton for good. Requests in flight there have ten seconds to finish."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await asyncio.to_thread(self.process.stop)

    async def _start(self, timeout_s: float) -> None:
        self.starting = True
        task = asyncio.create_task(asyncio.to_thread(self.process.start, timeout_s))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():  # the thread ends once its process has started and is gone
                await asyncio.to_thread(self.process.stop, 0)
                await asyncio.wait({task}, timeout=_POLL_S)
            with contextlib.suppress(TritonFailed, SlotInvalid):
                task.result()
                await asyncio.to_thread(self.process.stop)
            raise
        self.starting = False

    async def _keep(self, timeout_s: float) -> None:
        """Restarts a Triton that is out, with longer pauses, until it runs."""
        loop = asyncio.get_running_loop()
        pause, longest = _RESTART_S
        while True:
            begun = loop.time()
            watch = TritonWatch(
                self._slot, self.process, self._events, out_s=self._out_s, load_s=timeout_s
            )
            reason = await watch.until_out()
            if loop.time() - begun > _STEADY_S:
                pause = _RESTART_S[0]
            self._events.publish(
                f"{reason}; starting it again in {pause:g} s. Its log has more: {self.process.log}",
                slot=self._slot,
                alarm=True,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                await asyncio.to_thread(self.process.stop, 0)  # what is left of the dead one
                await self._start(timeout_s)
            except (TritonFailed, SlotInvalid, OSError) as error:
                self._events.publish(f"Triton did not start: {error}", slot=self._slot, alarm=True)
                continue
            self.restarts += 1
            self._events.publish("Triton runs again.", slot=self._slot)
