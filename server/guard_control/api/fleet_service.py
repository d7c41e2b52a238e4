"""DeploymentService of a fleet, in the process of the command that asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from guard_control.api.fleet_messages import list_fleet
from guard_control.api.rollout_service import Context, RolloutService
from guard_control.errors import PreconditionFailed
from guard_control.gateways.fleet_file import FleetFile
from guard_control.gateways.fleet_store import store_of
from guard_control.gateways.gateway_fleet import GatewayFleet
from guard_control.gateways.gateway_watch import watching
from guard_control.stores.traffic_store import StoreFailed
from guard_server.api.decoding import Received
from guard_server.api.handlers import faultless
from qwen3guard.v1 import deployment_pb2 as pb


class FleetService(RolloutService):
    """Of the gateways that FLEET.yaml names."""

    def __init__(self, fleet: GatewayFleet, file: FleetFile) -> None:
        super().__init__(fleet, sorted({file.files(name).parent for name in file.slots}))
        self._gateways = fleet

    async def ListSlots(  # noqa: N802  (grpc's name)
        self, received: Received[pb.ListSlotsRequest], context: Context
    ) -> pb.ListSlotsResponse:
        await faultless(received, context)
        found = self._gateways.answers()
        if not found.workers.statuses:
            problems = [f"{one.address} {one.problem}" for one in found.gateways]
            said = "; ".join([*filter(None, [found.unknown]), *problems])
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"No gateway reports. {said}.")
        return list_fleet(found, self._gateways)


@asynccontextmanager
async def fleet_served(file: FleetFile, socket: Path) -> AsyncIterator[None]:
    """Serves on a Unix socket while the block runs.

    `socket`: in a directory that only its owner may enter. Raises OSError, or PreconditionFailed if
    the traffic can't be read.
    """
    try:
        store = store_of(file)
        first = await store.read()
    except StoreFailed as error:
        raise PreconditionFailed(str(error)) from None
    async with watching(file.gateways, file.tls) as watch:
        service = FleetService(GatewayFleet(file, store, first, watch), file)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(tuple(service.handlers()))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await service.cancel_rollout("The command has ended.")
            await server.stop(None)
