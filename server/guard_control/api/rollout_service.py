"""DeploymentService of any fleet, but for what it lists: one operation at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from guard_control.errors import STATUS, InvalidOperation, OperationError, OperationInProgress
from guard_control.fleets.fleet import Fleet
from guard_control.fleets.fleet_kind import Others
from guard_control.rollout import operations
from guard_control.rollout.parameters import Deployment, Shift, slot_below
from guard_control.rollout.rollout import ReportStep, Rollout
from guard_core.errors import fitting, quoted
from guard_core.slot.traffic import ShadowTraffic
from guard_server.api.decoding import Received
from guard_server.api.handlers import faultless, generic_handler
from guard_server.api.reflection import Reflection
from qwen3guard.v1 import deployment_pb2 as pb

SERVICE: Any = pb.DESCRIPTOR.services_by_name["DeploymentService"]

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


class RolloutService:
    """Runs one operation at a time."""

    def __init__(self, fleet: Fleet, roots: Sequence[Path]) -> None:
        """`roots`: directories below which slots that are deployed must be."""
        self._fleet = fleet
        self._roots = roots
        self._operating = asyncio.Lock()
        self._rollout: Rollout | None = None  # the last one that began

    async def SetTraffic(  # noqa: N802  (grpc's names, here and below)
        self, received: Received[pb.SetTrafficRequest], context: Context
    ) -> pb.SetTrafficResponse:
        request = await faultless(received, context)
        async with _errors_as_statuses(context), self._alone("weights or the shadow are set"):
            shadow = _shadow(request.shadow)
            if request.weights:
                await self._fleet.set_weights(request.weights)
            if request.HasField("shadow"):
                await self._fleet.set_shadow(shadow)
        return pb.SetTrafficResponse(generation=self._fleet.traffic.generation)

    async def Drain(  # noqa: N802
        self, received: Received[pb.DrainRequest], context: Context
    ) -> pb.DrainResponse:
        request = await faultless(received, context)
        async with _errors_as_statuses(context), self._alone(f"{request.slot} is drained"):
            await (self._fleet.remove if request.stop else self._fleet.drain)(request.slot)
        return pb.DrainResponse()

    async def Deploy(  # noqa: N802
        self, received: Received[pb.DeployRequest], context: Context
    ) -> AsyncIterator[pb.DeployResponse]:
        request = await faultless(received, context)

        async def deploy(report: ReportStep) -> None:
            run = operations.resume if request.resume else operations.deploy
            await run(self._fleet, wanted, report)

        async with _errors_as_statuses(context):
            wanted = _deployment(request, self._roots)
        async with _errors_as_statuses(context, wanted.directory, wanted.data):
            others = Others.RESUME if request.resume else Others.REFUSE
            async for progress in self._roll_out(wanted.directory.name, deploy, others):
                yield pb.DeployResponse(progress=progress)

    async def Promote(  # noqa: N802
        self, received: Received[pb.PromoteRequest], context: Context
    ) -> AsyncIterator[pb.PromoteResponse]:
        request = await faultless(received, context)

        async def promote(report: ReportStep) -> None:
            await operations.promote(self._fleet, request.slot, _shift(request.shift), report)

        async with _errors_as_statuses(context):
            async for progress in self._roll_out(request.slot, promote):
                yield pb.PromoteResponse(progress=progress)

    async def Rollback(  # noqa: N802
        self, received: Received[pb.RollbackRequest], context: Context
    ) -> pb.RollbackResponse:
        request = await faultless(received, context)
        await self.cancel_rollout("A rollback took over.")
        others = Others.TAKE_OVER
        async with _errors_as_statuses(context), self._alone("a rollback", others=others):
            slot = await operations.rollback(self._fleet, keep=request.keep)
        return pb.RollbackResponse(slot=slot)

    async def WatchEvents(  # noqa: N802
        self, received: Received[pb.WatchEventsRequest], context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        await faultless(received, context)
        async for event in self._fleet.events.watch():
            time = Timestamp()
            time.FromMicroseconds(int(event.time * 1e6))
            yield pb.WatchEventsResponse(
                time=time, slot=event.slot, alarm=event.alarm, text=event.text
            )

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Of its methods, and of the reflection of them."""
        return generic_handler(SERVICE, self), *Reflection((SERVICE,)).handlers()

    async def cancel_rollout(self, reason: str) -> None:
        """Ends a rollout that is under way; the traffic stays as it is."""
        if self._rollout is not None:
            await self._rollout.cancel(reason)

    async def _roll_out(
        self,
        slot: str,
        operation: Callable[[ReportStep], Awaitable[None]],
        others: Others = Others.REFUSE,
    ) -> AsyncIterator[pb.Progress]:
        """Runs a rollout and yields its progress. The end of the call cancels it."""

        async def alone(report: ReportStep) -> None:
            async with self._alone(f"a rollout of {slot}", slot=slot, others=others):
                self._rollout = rollout
                await operation(report)

        rollout = Rollout(slot, alone, self._fleet.events)
        async with aclosing(rollout.events()) as events:
            async for event in events:
                yield pb.Progress(step=pb.Step.Value(event.step), text=event.text)

    @asynccontextmanager
    async def _alone(
        self, change: str, *, slot: str | None = None, others: Others = Others.REFUSE
    ) -> AsyncIterator[None]:
        if self._operating.locked():
            raise OperationInProgress(
                "Another change is being made: `guard slots --watch` shows its progress. "
                "Try again when it is done."
            )
        async with self._operating, self._fleet.operating(change, slot=slot, others=others):
            yield


@asynccontextmanager
async def _errors_as_statuses(context: Context, *paths: Path | None) -> AsyncIterator[None]:
    """Ends the call with the status of an error that the block raises.

    `paths`: the caller's. Where the error names one, the status quotes it.
    """
    try:
        yield
    except OperationError as error:
        text = str(error)
        for path in map(str, filter(None, paths)):
            text = text.replace(path, quoted(path))
        await context.abort(STATUS[type(error)], fitting(text))
    except Exception as error:
        _log.error("unexpected error", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "The server failed; its log has the reason.")


def _shadow(wanted: pb.Shadow) -> ShadowTraffic | None:
    if not 0 <= wanted.share <= 1:
        raise InvalidOperation("Give a shadow's share between 0 and 1.")
    return ShadowTraffic(slot=wanted.slot, share=wanted.share) if wanted.share else None


def _deployment(request: pb.DeployRequest, roots: Sequence[Path]) -> Deployment:
    given: dict[str, Any] = {}
    if request.HasField("min_agreement"):
        given["min_agreement"] = request.min_agreement
    if request.verify_in_flight:
        given["verify_in_flight"] = request.verify_in_flight
    if request.HasField("shadow_time"):
        given["shadow_s"] = _seconds(request.shadow_time)
    if request.HasField("ready_timeout"):
        given["ready_s"] = _seconds(request.ready_timeout)
    return Deployment(
        directory=slot_below(roots, request.directory),
        data=Path(request.data) if request.data else None,
        ignored_keys=tuple(request.ignored_keys),
        shadow_share=request.shadow_share,
        shift=_shift(request.shift),
        prepare_only=request.prepare_only,
        **given,
    )


def _shift(wanted: pb.Shift) -> Shift:
    given: dict[str, Any] = {}
    if wanted.steps:
        given["steps"] = tuple(wanted.steps)
    if wanted.HasField("pause"):
        given["pause_s"] = _seconds(wanted.pause)
    if wanted.max_factor:
        given["max_factor"] = wanted.max_factor
    return Shift(keep_old=wanted.keep_old, **given)


def _seconds(duration: Duration) -> float:
    return duration.ToMicroseconds() / 1e6
