"""DeploymentService for a fleet, in the process of the command that asks it.

It lists the slots; what changes the traffic of a fleet is the scheduler's.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from guard_control.api.fleet_messages import list_fleet
from guard_control.gateways.fleet_file import FleetFile
from guard_control.gateways.gateway_watch import GatewayWatch, watching
from guard_server.api.decoding import Received
from guard_server.api.handlers import faultless, generic_handler
from qwen3guard.v1 import deployment_pb2 as pb

_SERVICE: Any = pb.DESCRIPTOR.services_by_name["DeploymentService"]

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetService:
    """What the fleet's gateways say together."""

    def __init__(self, watch: GatewayWatch) -> None:
        self._watch = watch

    async def ListSlots(  # noqa: N802  (grpc's name)
        self, received: Received[pb.ListSlotsRequest], context: _Context
    ) -> pb.ListSlotsResponse:
        await faultless(received, context)
        found = self._watch.answers()
        if not found.workers.statuses:
            problems = [f"{one.address} {one.problem}" for one in found.gateways]
            said = "; ".join([*filter(None, [found.unknown]), *problems])
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"No gateway reports. {said}.")
        return list_fleet(found)


@asynccontextmanager
async def fleet_served(fleet: FleetFile, socket: Path) -> AsyncIterator[None]:
    """Serves on a Unix socket while the block runs.

    `socket`: in a directory that only its owner may enter. Raises OSError.
    """
    async with watching(fleet.gateways, fleet.tls) as watch:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((generic_handler(_SERVICE, FleetService(watch)),))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)
