"""A swap, step by step: from a candidate's files to all of the traffic, or back to where it was."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from guard_control import gates, verification
from guard_control.errors import Meaningless, NotMade, Refused
from guard_control.fleet import ControlPlane
from guard_control.gates import Window, window
from guard_control.slot_processes import LocalSlot
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import ShadowTraffic
from guard_eval.verify import least_agreement, same_checkpoint

_READY_S = 300.0
_WATCH_S = 0.2


class Step(StrEnum):
    """By the contract's names."""

    CHECK = "STEP_CHECK"
    START = "STEP_START"
    WARM_UP = "STEP_WARM_UP"
    VERIFY = "STEP_VERIFY"
    SHADOW = "STEP_SHADOW"
    SHIFT = "STEP_SHIFT"
    DRAIN = "STEP_DRAIN"
    STOP = "STEP_STOP"
    DONE = "STEP_DONE"
    ROLLBACK = "STEP_ROLLBACK"


Tell = Callable[[Step, str], None]


@dataclass(frozen=True, slots=True)
class Shift:
    """How traffic is shifted."""

    steps: Sequence[int] = (5, 25, 50, 100)  # percent
    pause_s: float = 10.0
    max_factor: float = 2.0
    keep_old: bool = False

    def check(self) -> None:
        """Raises Meaningless."""
        rising = all(a < b for a, b in zip((0, *self.steps), self.steps, strict=False))
        if not self.steps or not rising or self.steps[-1] != 100:
            raise Meaningless("Steps are percent that rise and end with 100.")
        if self.max_factor < 1:
            raise Meaningless("The factor is at least 1.")


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is deployed, and how carefully."""

    directory: Path
    data: Path | None = None
    min_agreement: float | None = None
    verify_in_flight: int = 2
    shadow_share: float = 0.0
    shadow_s: float = 10.0
    ready_s: float = _READY_S
    shift: Shift = Shift()
    prepare_only: bool = False

    def check(self) -> None:
        """Raises Meaningless."""
        self.shift.check()
        if not 0 <= self.shadow_share <= 1 or not 0 <= (self.min_agreement or 0) <= 1:
            raise Meaningless("A share or an agreement is between 0 and 1.")


async def deploy(plane: ControlPlane, wanted: Deployment, tell: Tell) -> None:
    """Raises NotMade after everything is taken back. Cancelled, it leaves the traffic as it is."""
    wanted.check()
    name, active = wanted.directory.name, plane.active
    if plane.traffic.weights.get(name):
        raise Refused(
            f"{name} has traffic. Build the candidate into another slot: `guard build --slot NAME`."
        )
    tell(Step.CHECK, f"comparing the files of {name} with their manifest")
    manifest = await _checked(wanted.directory)
    tell(Step.CHECK, f"{manifest.model.name} {manifest.fingerprint}, {manifest.engine.weights}")
    if name in plane.slots:
        tell(Step.STOP, f"{name} runs without traffic: stopping it, to start it anew")
        await plane.remove(name)
    before = plane.traffic.weights
    try:
        tell(Step.START, "starting Triton")
        slot = await plane.start(wanted.directory, wanted.ready_s)
        tell(Step.WARM_UP, "waiting for verdicts of both modes in every gateway process")
        await plane.until_ready(name, wanted.ready_s)
        tell(Step.VERIFY, f"comparing verdicts with those of {active}")
        await verification.verify(
            slot,
            plane.slots[active],
            data=wanted.data,
            min_agreement=wanted.min_agreement,
            in_flight=wanted.verify_in_flight,
            tell=lambda text: tell(Step.VERIFY, text),
        )
        if wanted.shadow_share:
            await _shadow(plane, slot, wanted, tell)
    except BaseException as error:
        if isinstance(error, NotMade):
            tell(Step.ROLLBACK, f"{error} The traffic was not touched.")
        await _forget(plane, name)
        raise
    if wanted.prepare_only:
        tell(Step.DONE, f"{name} is warm and verified: `guard promote {name}` gives it traffic")
        return
    await _shift(plane, name, before, wanted.shift, tell, forget=True)


async def promote(plane: ControlPlane, name: str, shift: Shift, tell: Tell) -> None:
    """Raises NotMade after the traffic is taken back. Cancelled, it leaves it as it is."""
    shift.check()
    plane.slots[name]
    if not plane.ready(name):
        raise Refused(f"{name} is not ready. `guard slots` shows how it does.")
    await _shift(plane, name, plane.traffic.weights, shift, tell, forget=False)


async def rollback(plane: ControlPlane, *, keep: bool) -> str:
    """Gives all traffic to the slot that had it before; its name. Raises NotMade."""
    if plane.rollback_to is None:
        raise Refused("There was no swap since the server started: nothing to go back to.")
    before = plane.rollback_to
    name = before.directory.name
    if name not in plane.slots:
        manifest = await _checked(before.directory)
        if manifest.fingerprint != before.fingerprint:
            raise Refused(
                f"{name} was built again since it had the traffic: `guard deploy {name}`."
            )
        await plane.start(before.directory, _READY_S)
    await plane.until_ready(name, _READY_S)
    others = [other for other in plane.traffic.slots if other != name]
    await plane.set_weights({name: 100})
    plane.events.tell("Rolled back: it has all of the traffic.", slot=name)
    for other in others:
        await (plane.drain(other) if keep else plane.remove(other))
    return name


async def _shift(
    plane: ControlPlane,
    name: str,
    before: dict[str, int],
    shift: Shift,
    tell: Tell,
    *,
    forget: bool,
) -> None:
    """Traffic by steps, each with its gate, then the end of the other slots."""
    active = max((n for n in before if n != name), key=lambda n: before[n], default=None)
    if active is None:
        raise Refused(f"{name} is the only slot: it has all of the traffic.")
    plane.rollback_to = plane.traffic.slots[active]
    measured = Window()  # the active slot's last span with enough requests
    try:
        for percent in shift.steps:
            await plane.set_weights({name: percent, active: 100 - percent})
            marks = plane.counts(name), plane.counts(active)
            await _watch(plane, name, shift.pause_s)
            candidate = window(marks[0], plane.counts(name))
            other = window(marks[1], plane.counts(active))
            if other.answered >= gates.MIN_FOR_P99 or not measured.ended:
                measured = other
            tell(Step.SHIFT, f"{percent}%: {name} {candidate}; {active} {other}")
            if found := gates.reasons(candidate, measured, shift.max_factor):
                raise Refused(f"At {percent}%: {' '.join(found)}")
            if percent < 100 and (lacking := gates.unjudged(candidate, measured)):
                tell(Step.SHIFT, f"too few {lacking}: a longer pause sees more")
    except Exception as error:
        tell(Step.ROLLBACK, f"{error} Giving the traffic back to {active}.")
        await plane.set_weights(before)
        if forget:
            await _forget(plane, name)
        raise
    for other_name in [n for n in plane.traffic.slots if n != name]:
        tell(Step.DRAIN, f"waiting for the last requests of {other_name}")
        await plane.drain(other_name)
        if not shift.keep_old:
            tell(Step.STOP, f"stopping {other_name}")
            await plane.remove(other_name)
    tell(Step.DONE, f"{name} has all of the traffic; `guard rollback` gives it back to {active}")


async def _watch(plane: ControlPlane, name: str, pause_s: float) -> None:
    """Waits. Raises Refused at once if the candidate is lost."""
    loop = asyncio.get_running_loop()
    end = loop.time() + pause_s
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(_WATCH_S, left))
        if any(not status.ready for status in plane.counts(name).values()):
            raise Refused(f"{name} was lost: it gave no more verdicts.")


async def _shadow(plane: ControlPlane, slot: LocalSlot, wanted: Deployment, tell: Tell) -> None:
    """The candidate beside the active slot, on live requests; then its gate. Raises Refused."""
    name, active = slot.name, plane.slots[plane.active]
    tell(
        Step.SHADOW, f"judging {wanted.shadow_share:.0%} of the live requests beside {active.name}"
    )
    await plane.set_shadow(ShadowTraffic(slot=name, share=wanted.shadow_share))
    try:
        await _watch(plane, name, wanted.shadow_s)
    finally:
        await plane.set_shadow(None)
    found = gates.shadowed(plane.counts(name))
    tell(Step.SHADOW, str(found))
    least = least_agreement(
        same_checkpoint=same_checkpoint(slot.manifest, active.manifest),
        min_agreement=wanted.min_agreement,
    )
    if reasons := gates.shadow_reasons(found, least):
        raise Refused(" ".join(reasons))
    if least is None:
        tell(Step.SHADOW, "another checkpoint: no agreement is required (see --min-agreement)")
    elif found.compared < gates.MIN_FOR_AGREEMENT:
        tell(
            Step.SHADOW,
            f"fewer than {gates.MIN_FOR_AGREEMENT} were compared: more time or share sees more",
        )


async def _forget(plane: ControlPlane, name: str) -> None:
    """Stops a candidate without traffic."""
    if name in plane.slots:
        with contextlib.suppress(NotMade):
            await plane.remove(name)


async def _checked(directory: Path) -> Manifest:
    """Raises Refused unless all files are what the manifest says."""
    try:
        manifest = await asyncio.to_thread(Manifest.load, directory)
        await asyncio.to_thread(manifest.check, directory)
    except SlotInvalid as error:
        raise Refused(str(error)) from None
    return manifest
