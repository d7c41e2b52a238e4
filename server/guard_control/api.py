"""DeploymentService: the control plane's face."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_reflection.v1alpha import reflection

from guard_control import messages as report
from guard_control import rollout as swap
from guard_control.errors import STATUS, Busy, Meaningless, NotMade, TakenOver
from guard_control.fleet import ControlPlane
from guard_control.rollout import Deployment, Shift, Step
from guard_core.slot.traffic import ShadowTraffic
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc

NAME = pb.DESCRIPTOR.services_by_name["DeploymentService"].full_name
HOST = "127.0.0.1"

_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def listening(plane: ControlPlane, port: int) -> AsyncIterator[int]:
    """Serves on loopback; gives the port. Raises OSError if it is in use."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = DeploymentService(plane)
    deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(service, server)
    reflection.enable_server_reflection((NAME, reflection.SERVICE_NAME), server)
    try:
        bound = server.add_insecure_port(f"{HOST}:{port}")
    except RuntimeError as error:
        raise OSError(f"Can't listen on {HOST}:{port}: is the port in use? ({error})") from None
    await server.start()
    try:
        yield bound
    finally:
        await service.end_swap("The server is stopping.")
        await server.stop(None)


class DeploymentService(deployment_pb2_grpc.DeploymentServiceServicer):
    """Makes one change at a time."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._changing = asyncio.Lock()
        self._swap: asyncio.Task[None] | None = None
        self._taken_over = ""  # by what, if the swap was ended from outside

    async def ListSlots(  # noqa: N802  (grpc's names, here and below)
        self, request: pb.ListSlotsRequest, context: _Context
    ) -> pb.ListSlotsResponse:
        return report.slots(self._plane)

    async def SetTraffic(  # noqa: N802
        self, request: pb.SetTrafficRequest, context: _Context
    ) -> pb.SetTrafficResponse:
        async def change() -> None:
            if request.weights:
                await self._plane.set_weights(request.weights)
            if request.HasField("shadow"):
                await self._plane.set_shadow(_shadow(request.shadow))

        await self._change(change, context)
        return pb.SetTrafficResponse(generation=self._plane.traffic.generation)

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: _Context
    ) -> pb.DrainResponse:
        end = self._plane.remove if request.stop else self._plane.drain
        await self._change(lambda: end(request.slot), context)
        return pb.DrainResponse()

    async def Deploy(  # noqa: N802
        self, request: pb.DeployRequest, context: _Context
    ) -> AsyncIterator[pb.DeployResponse]:
        name = Path(request.directory).name
        async for progress in self._swapping(
            name, lambda tell: swap.deploy(self._plane, _deployment(request), tell), context
        ):
            yield pb.DeployResponse(progress=progress)

    async def Promote(  # noqa: N802
        self, request: pb.PromoteRequest, context: _Context
    ) -> AsyncIterator[pb.PromoteResponse]:
        name, shift = request.slot, _shift(request.shift)
        async for progress in self._swapping(
            name, lambda tell: swap.promote(self._plane, name, shift, tell), context
        ):
            yield pb.PromoteResponse(progress=progress)

    async def Rollback(  # noqa: N802
        self, request: pb.RollbackRequest, context: _Context
    ) -> pb.RollbackResponse:
        await self.end_swap("A rollback took over.")
        slot = await self._change(lambda: swap.rollback(self._plane, keep=request.keep), context)
        return pb.RollbackResponse(slot=slot)

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        async for event in self._plane.events.watch():
            time = Timestamp()
            time.FromMicroseconds(int(event.time * 1e6))
            yield pb.WatchEventsResponse(
                time=time, slot=event.slot, alarm=event.alarm, text=event.text
            )

    async def end_swap(self, why: str) -> None:
        """Ends a swap that is under way; the traffic stays as it is."""
        if self._swap is not None:
            self._taken_over = why
            self._swap.cancel()
            await asyncio.wait({self._swap})

    async def _change(self, change: Callable[[], Awaitable[Any]], context: _Context) -> Any:
        try:
            async with self._alone():
                return await change()
        except Exception as error:
            await _abort(context, error)

    async def _swapping(
        self,
        slot: str,
        change: Callable[[swap.Tell], Awaitable[None]],
        context: _Context,
    ) -> AsyncIterator[pb.Progress]:
        """Runs a swap in a task of its own, which the call's end cancels."""
        steps: asyncio.Queue[pb.Progress | None] = asyncio.Queue()

        def tell(step: Step, text: str) -> None:
            self._plane.events.tell(text, slot=slot, alarm=step is Step.ROLLBACK)
            steps.put_nowait(pb.Progress(step=pb.Step.Value(step), text=text))

        async def run() -> None:
            try:
                async with self._alone():
                    self._swap = asyncio.current_task()
                    try:
                        await change(tell)
                    finally:
                        self._swap = None
            finally:
                steps.put_nowait(None)

        task = asyncio.create_task(run())
        try:
            while (progress := await steps.get()) is not None:
                yield progress
            await task
        except asyncio.CancelledError:
            if not self._taken_over:
                raise
            why, self._taken_over = self._taken_over, ""
            await _abort(context, TakenOver(why))
        except Exception as error:
            await _abort(context, error)
        finally:
            task.cancel()
            await asyncio.wait({task})

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._changing.locked():
            raise Busy("Another change is being made: `guard slots` shows it. Try again then.")
        async with self._changing:
            yield


def _shadow(wanted: pb.Shadow) -> ShadowTraffic | None:
    if not 0 <= wanted.share <= 1:
        raise Meaningless("The shadow's share is between 0 and 1.")
    return ShadowTraffic(slot=wanted.slot, share=wanted.share) if wanted.share else None


def _deployment(request: pb.DeployRequest) -> Deployment:
    given: dict[str, Any] = {}
    if request.HasField("min_agreement"):
        given["min_agreement"] = request.min_agreement
    if request.verify_in_flight:
        given["verify_in_flight"] = request.verify_in_flight
    if request.HasField("shadow_time"):
        given["shadow_s"] = _seconds(request.shadow_time)
    if request.HasField("ready_timeout"):
        given["ready_s"] = _seconds(request.ready_timeout)
    if not Path(request.directory).is_absolute():
        raise Meaningless("Give the slot's directory by its whole path.")
    return Deployment(
        directory=Path(request.directory),
        data=Path(request.data) if request.data else None,
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


async def _abort(context: _Context, error: Exception) -> NoReturn:
    if isinstance(error, NotMade):
        await context.abort(STATUS[type(error)], str(error))
    _log.error("unexpected error", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "The server failed; its log says more.")
    raise AssertionError("abort always raises")
