"""Whether a Triton is out: by its process, by its model, and by what the model answers."""

import asyncio
from collections.abc import Sequence

from guard_control.events import Events
from guard_control.host.child_process import Activity
from guard_control.loaded_model import EngineAnswer, ModelState
from guard_control.triton_process import TritonProcess

_POLL_S = 0.2
_LOOK_S = 1.0
_ANSWER_S = 2.0  # Triton's time to say what it has
_QUIET_S = 5.0  # an engine without requests is asked as often
_STILL_LOOKS = 2
_DEAD_S = 2.0  # a gateway's time to begin to have a dead engine loaded again
_DEAD = "The engine's process died, and no gateway had it loaded again"


class TritonWatch:
    """Watches one Triton from its start until it is out."""

    def __init__(
        self, name: str, triton: TritonProcess, events: Events, *, out_s: float, load_s: float
    ) -> None:
        """`name`: of the slot. `out_s`: see SlotProcess. `load_s`: the longest time of a load."""
        self._name = name
        self._triton = triton
        self._events = events
        self._out_s = out_s
        self._load_s = load_s
        self._engine = _EngineWatch(triton, out_s)
        self._tried = False  # to load the model
        self._load: asyncio.Task[None] | None = None  # that is kept from the garbage collector

    async def until_out(self) -> str:
        """Why Triton has to be started again. A model that was unloaded is loaded first."""
        loop = asyncio.get_running_loop()
        state, out_s, looked = ModelState.LOADED, 0.0, loop.time()
        try:
            while self._triton.running:
                await asyncio.sleep(_POLL_S)
                if loop.time() - looked < _LOOK_S:
                    continue
                before = state
                state = await asyncio.to_thread(self._triton.model_state, _ANSWER_S)
                now = loop.time()
                # If more time passed, this process itself did not run.
                passed_s, looked = min(now - looked, _LOOK_S + _ANSWER_S), now
                out_s = out_s + passed_s if state is before else passed_s
                if reason := await self._out(state, out_s, passed_s):
                    return reason
        finally:
            self._engine.close()
        return "Triton died"

    async def _out(self, state: ModelState, out_s: float, passed_s: float) -> str:
        """Why it is out, or nothing; it has been in this state for `out_s`."""
        if state is ModelState.LOADED:
            self._tried = False
            return await self._engine.mute(passed_s)
        if state is ModelState.LOADING:
            return await self._stuck(out_s, passed_s)
        self._engine.reset()
        if out_s < self._out_s * (2 if self._tried else 1):
            return ""
        if state is ModelState.SILENT:
            return f"Triton has not answered for {self._out_s:g} s"
        if self._tried:
            return "Triton did not load the model"
        self._tried = True
        self._events.publish(
            "The model was unloaded: having Triton load it.", slot=self._name, alarm=True
        )
        # Not waited for: meanwhile we look whether it still loads.
        self._load = asyncio.create_task(asyncio.to_thread(self._triton.model.load, self._load_s))
        return ""

    async def _stuck(self, out_s: float, passed_s: float) -> str:
        """Why a load that began `out_s` ago does not end, or nothing."""
        gone = await self._engine.gone(passed_s)
        if gone and out_s >= _DEAD_S:  # Triton itself would wait for five minutes
            return "The engine's process died while the model was loaded"
        return f"Triton has been loading for {self._load_s:g} s" if out_s >= self._load_s else ""


class _EngineWatch:
    """Finds an engine that hangs or is dead below a Triton that answers.

    Busy is not dead: it is out only if it answers neither our question nor another caller's; sooner
    if its process does nothing meanwhile, though the machine would let it.
    """

    def __init__(self, triton: TritonProcess, out_s: float) -> None:
        self._triton = triton
        self._out_s = out_s
        self._answered: int | None = None
        self._asked: asyncio.Task[EngineAnswer] | None = None
        self._mute_s = 0.0  # since our question
        self._next_s = 0.0  # until our next one
        self._activity: Sequence[Activity] = ()
        self._still = 0  # looks in a row since our question in which the process did nothing
        self._gone_s = 0.0  # without the process

    def close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()

    def reset(self) -> None:
        """The model is not loaded."""
        self._mute_s, self._still, self._gone_s = 0.0, 0, 0.0

    async def gone(self, passed_s: float) -> bool:
        """Whether its process has not lived for 2 s, of a model that Triton loads.

        `passed_s`: since this was called last.
        """
        self._mute_s, self._still = 0.0, 0
        self._activity = await asyncio.to_thread(self._triton.activity)
        self._gone_s = self._gone_s + passed_s if len(self._activity) == 1 else 0.0
        return self._gone_s >= _DEAD_S

    async def mute(self, passed_s: float) -> str:
        """Why it is out, or nothing. `passed_s`: since this was called last."""
        before, did = self._answered, self._activity
        self._answered = await asyncio.to_thread(self._triton.model.answered, _ANSWER_S)
        self._activity = await asyncio.to_thread(self._triton.activity)
        ended = self._asked is not None and self._asked.done()
        answer = self._asked.result() if self._asked is not None and ended else None
        if self._answered != before or answer is EngineAnswer.GIVEN:
            self.reset()
            if ended:
                self._asked, self._next_s = None, _QUIET_S
            elif self._asked is None:
                self._next_s = 0.0  # others are answered: once they are not, we ask at once
            return ""
        self._next_s -= passed_s
        self._gone_s = self._gone_s + passed_s if len(self._activity) == 1 else 0.0
        if self._asked is not None:
            self._mute_s += passed_s
            self._still = self._still + 1 if _stands_still(did, self._activity) else 0
        if self._gone_s >= _DEAD_S or (answer is EngineAnswer.GONE and self._mute_s >= _DEAD_S):
            return _DEAD
        if self._still >= _STILL_LOOKS:
            return f"The engine does nothing, and has answered nothing for {self._mute_s:.0f} s"
        if self._mute_s >= self._out_s:
            return f"The engine has answered nothing for {self._out_s:g} s"
        if ended or (self._asked is None and self._next_s <= 0):
            infer = asyncio.to_thread(self._triton.model.infer, self._out_s)
            self._asked = asyncio.create_task(infer)
        return ""


def _stands_still(before: Sequence[Activity], after: Sequence[Activity]) -> bool:
    """Whether the engine's process did nothing in between, though it could have run.

    Triton is the first one: it may not have passed on our question yet.
    """
    waits = any(each.waits_for_machine for each in [*before, *after])
    return len(after) > 1 and before[1:] == after[1:] and not waits
