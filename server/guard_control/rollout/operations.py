"""Deploy, promote and rollback: from a candidate's files to all of the traffic, and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from guard_control.errors import OperationError, PreconditionFailed, Superseded
from guard_control.fleets.fleet import Fleet
from guard_control.fleets.fleet_slot import READY_S, FleetSlot, checked_manifest
from guard_control.rollout import gates, verification
from guard_control.rollout.gates import Window, window
from guard_control.rollout.parameters import Deployment, Shift, Step
from guard_control.rollout.rollout import ReportStep
from guard_control.rollout.watch import ready_replicas, watch
from guard_core.slot.traffic import ShadowTraffic
from guard_eval.verify import least_agreement, same_checkpoint

_SHADOW_SPANS = 6  # at most, while a busy server lets too few requests be judged twice


async def deploy(fleet: Fleet, wanted: Deployment, report: ReportStep) -> None:
    """Brings a candidate from its files to all of the traffic.

    Raises OperationError after everything is taken back. Cancelled, it leaves the traffic as it is.
    """
    wanted.check()
    name, active = wanted.directory.name, fleet.active
    if fleet.traffic.weights.get(name):
        raise PreconditionFailed(
            f"{name} has traffic. Build the candidate into another slot: `guard build --slot NAME`."
        )
    report(Step.CHECK, f"comparing the files of {name} with their manifest")
    manifest = await checked_manifest(wanted.directory)
    examples = await asyncio.to_thread(verification.load, wanted.data, wanted.ignored_keys)
    report(Step.CHECK, f"{manifest.model.name} {manifest.fingerprint}, {manifest.engine.weights}")
    if name in fleet.slots:
        report(Step.STOP, f"{name} runs without traffic: {fleet.stopping(name)}, to start it again")
        await fleet.remove(name)
    async with _removed_on_failure(fleet, name, report):
        report(Step.START, fleet.starting)
        slot = await fleet.start(wanted.directory, wanted.ready_s)
        report(Step.WARM_UP, "waiting for verdicts of both modes in every gateway process")
        await fleet.until_ready(name, wanted.ready_s)
        report(Step.VERIFY, f"comparing verdicts with those of {active}")
        await verification.verify(
            slot,
            fleet.slots[active],
            examples=examples,
            min_agreement=wanted.min_agreement,
            in_flight=wanted.verify_in_flight,
            report=lambda text: report(Step.VERIFY, text),
        )
        if wanted.shadow_share:
            await _shadow(fleet, slot, wanted, report)
    if wanted.prepare_only:
        report(Step.DONE, f"{name} is warm and verified: `guard promote {name}` gives it traffic")
        return
    try:
        await _shift(fleet, name, wanted.shift, report)
    except Exception:
        await _remove(fleet, name)
        raise
    await _retire_others(fleet, name, wanted.shift, report)


async def resume(fleet: Fleet, wanted: Deployment, report: ReportStep) -> None:
    """Goes on with a deployment or a promotion that has died, from what it had reached.

    Before its first traffic it begins again. Raises and is cancelled as those are.
    """
    wanted.check()
    name = wanted.directory.name
    if fleet.weights_before == fleet.traffic.weights:
        await deploy(fleet, wanted, report)
        return
    reached = fleet.traffic.weights[name]
    left = [percent for percent in wanted.shift.steps if percent >= reached]
    report(Step.SHIFT, f"{name} has {reached}% of the traffic: going on")
    await _shift(fleet, name, replace(wanted.shift, steps=left), report)
    await _retire_others(fleet, name, wanted.shift, report)


async def promote(fleet: Fleet, name: str, shift: Shift, report: ReportStep) -> None:
    """Shifts the traffic to a slot that runs.

    Raises OperationError after the traffic is given back. Cancelled, it leaves it as it is.
    """
    shift.check()
    fleet.check_runs(name)
    if not fleet.ready(name, fleet.snapshot()):
        raise PreconditionFailed(f"{name} is not ready. `guard slots` shows its state.")
    await _shift(fleet, name, shift, report)
    await _retire_others(fleet, name, shift, report)


async def rollback(fleet: Fleet, *, keep: bool) -> str:
    """Gives all traffic to the slot that had it before the last rollout; returns its name.

    `keep`: whether the other slots stay warm. Raises OperationError.
    """
    target = fleet.rollback_to
    if target is None:
        raise PreconditionFailed(
            "No rollout has moved the traffic of this server: there is no slot to go back to."
        )
    name = target.name
    await fleet.bring_back(target)
    await fleet.until_ready(name, READY_S)
    others = [other for other in fleet.traffic.slots if other != name]
    await fleet.set_weights({name: 100}, insist=True)
    fleet.events.publish("Rolled back: it has all of the traffic.", slot=name)
    for other in others:
        await (fleet.drain(other) if keep else fleet.remove(other))
    return name


async def _shift(fleet: Fleet, name: str, shift: Shift, report: ReportStep) -> None:
    """Moves all traffic to a slot. A failure gives the traffic back; a cancellation leaves it."""
    before = fleet.weights_before
    active = max((n for n in before if n != name), key=lambda n: before[n], default=None)
    if active is None:
        raise PreconditionFailed(f"{name} is the only slot: it has all of the traffic.")
    if set(filter(before.get, before)) == {name}:
        raise PreconditionFailed(f"{name} has all of the traffic already.")
    try:
        await fleet.set_rollback_target(active)
        await _raise_weight(fleet, name, active, shift, report)
    except Superseded:  # another hand has the traffic
        raise
    except Exception as error:
        report(Step.ROLLBACK, f"{error} Giving the traffic back to {active}.")
        try:
            await fleet.set_weights(before, insist=True)
        except PreconditionFailed as late:
            report(Step.ROLLBACK, str(late))
        raise


async def _raise_weight(
    fleet: Fleet, name: str, active: str, shift: Shift, report: ReportStep
) -> None:
    """Raises the candidate's weight in steps, each followed by its gate."""
    reference = Window()  # the active slot's last span with enough requests
    for percent in shift.steps:
        await fleet.until_replicas(name, percent / 100, active, READY_S)
        had = ready_replicas(fleet, name)
        await fleet.set_weights({name: percent, active: 100 - percent})
        before = fleet.snapshot()
        await watch(fleet, name, had, shift.pause_s, percent / 100, active)
        after = fleet.snapshot()
        candidate = window(before.slot(name), after.slot(name))
        other = window(before.slot(active), after.slot(active))
        if other.answered >= gates.MIN_FOR_P99 or not reference.ended:
            reference = other
        report(Step.SHIFT, f"{percent}%: {name} {candidate}; {active} {other}")
        if found := gates.reasons(candidate, reference, shift.max_factor):
            raise PreconditionFailed(f"At {percent}%: {' '.join(found)}")
        if percent < 100 and (missing := gates.missing_samples(candidate, reference)):
            report(Step.SHIFT, f"too few {missing}: a longer pause gives more")
    await fleet.until_replicas(name, 1, active, READY_S)  # in processes that are new, too


async def _retire_others(fleet: Fleet, name: str, shift: Shift, report: ReportStep) -> None:
    """Ends the slots that have lost the traffic, or keeps them warm."""
    assert fleet.rollback_to is not None  # noqa: S101  (the shift has set it)
    for other in [n for n in fleet.traffic.slots if n != name]:
        report(Step.DRAIN, f"waiting for the last requests of {other}")
        await fleet.drain(other)
        if not shift.keep_old:
            report(Step.STOP, fleet.stopping(other))
            await fleet.remove(other)
    report(
        Step.DONE,
        f"{name} has all of the traffic; `guard rollback` gives it back to "
        f"{fleet.rollback_to.name}",
    )


async def _shadow(fleet: Fleet, slot: FleetSlot, wanted: Deployment, report: ReportStep) -> None:
    """Has the candidate judge live requests beside the active slot. Raises PreconditionFailed."""
    name, active = slot.name, fleet.slots[fleet.active]
    report(
        Step.SHADOW, f"judging {wanted.shadow_share:.0%} of the live requests beside {active.name}"
    )
    had = ready_replicas(fleet, name)
    await fleet.set_shadow(ShadowTraffic(slot=name, share=wanted.shadow_share))
    try:
        for _ in range(_SHADOW_SPANS):
            await watch(fleet, name, had, wanted.shadow_s, 0, active.name)
            found = gates.shadow_result(fleet.snapshot().slot(name))
            report(Step.SHADOW, str(found))
            if not found.starved:
                break
    finally:
        await fleet.set_shadow(None)
    least = least_agreement(
        same_checkpoint=same_checkpoint(slot.manifest, active.manifest),
        min_agreement=wanted.min_agreement,
    )
    if reasons := gates.shadow_reasons(found, least):
        raise PreconditionFailed(" ".join(reasons))
    if least is None:
        report(Step.SHADOW, "another checkpoint: no agreement is required (see --min-agreement)")
    elif found.compared < gates.MIN_FOR_AGREEMENT:
        report(
            Step.SHADOW,
            f"fewer than {gates.MIN_FOR_AGREEMENT} were compared: more time or share gives more",
        )


@asynccontextmanager
async def _removed_on_failure(fleet: Fleet, name: str, report: ReportStep) -> AsyncIterator[None]:
    """Stops a candidate that has no traffic yet if the block fails or is cancelled."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OperationError):
            report(Step.ROLLBACK, f"{error} The traffic was not touched.")
        await _remove(fleet, name)
        raise


async def _remove(fleet: Fleet, name: str) -> None:
    """Stops a candidate without traffic, if it runs."""
    if name in fleet.slots:
        with contextlib.suppress(OperationError):
            await fleet.remove(name)
