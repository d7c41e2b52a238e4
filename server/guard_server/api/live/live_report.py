"""Reports what happens in one ModerateLive call to the observers."""

from collections.abc import Sequence
from typing import Self

from guard_core.errors import GuardError
from guard_core.live.live_session import LiveSession, LiveState
from guard_core.verdict.policy import Action
from guard_server.pipeline.live_events import CheckKind, HoldEnd, LiveStep
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.result import Moderation

_FINAL = (LiveState.STOPPED, LiveState.FINISHED)


class LiveReport:
    """Use it as a context manager around the call."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._slot = ""  # that gave the newest verdict
        self._state = LiveState.PASSING
        self._cleared_bytes = 0
        self._was_held = False

    def __enter__(self) -> Self:
        for observer in self._observers:
            observer.live_opened()
        return self

    def __exit__(self, *_: object) -> None:
        held = self._slot if self._state is LiveState.HOLDING else None
        for observer in self._observers:
            observer.live_closed(held)

    def failed(self, kind: CheckKind, slot: str, error: GuardError | None) -> None:
        """A check gave no verdict. None: it was cancelled."""
        for observer in self._observers:
            observer.live_failed(slot, kind, error)

    def judged_beside(self, kind: CheckKind, moderation: Moderation) -> None:
        """A verdict that the session does not take: of the prompt, or followed by a whole one."""
        self._tell(moderation, LiveStep(kind, 0, _computed(moderation), 0, None))

    def judged(
        self, moderation: Moderation, session: LiveSession, tokens: int, coalesced: int
    ) -> None:
        """The session took a verdict, on `tokens` more than the one before."""
        final = session.state is LiveState.FINISHED
        blocked = moderation.action is Action.BLOCK
        was_passing = self._state is LiveState.PASSING
        step = LiveStep(
            CheckKind.FINAL if session.state in _FINAL else CheckKind.PARTIAL,
            tokens,
            _computed(moderation),
            coalesced,
            session.lag_s,
            None if was_passing else _hold_end(session.state, blocked),
            session.stop_reason,
            retracted=final and not blocked and self._was_held,
            late=final and blocked and was_passing and self._cleared_bytes > 0,
        )
        self._state, self._cleared_bytes = session.state, session.cleared_bytes
        self._was_held |= blocked
        self._tell(moderation, step)

    def _tell(self, moderation: Moderation, step: LiveStep) -> None:
        self._slot = moderation.slot.name
        for observer in self._observers:
            observer.live_judged(self._slot, step)


def _hold_end(state: LiveState, blocked: bool) -> HoldEnd | None:
    """What a verdict does to a hold that was there before it."""
    if not blocked:
        return HoldEnd.RELEASED
    return {LiveState.STOPPED: HoldEnd.STOPPED, LiveState.FINISHED: HoldEnd.BLOCKED}.get(state)


def _computed(moderation: Moderation) -> int:
    if moderation.cached:
        return 0
    usage = moderation.usage
    return moderation.prompt_tokens + usage.draft_tokens - usage.reused_tokens
