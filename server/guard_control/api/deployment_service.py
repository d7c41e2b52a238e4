"""DeploymentService of one machine: the operators' API. See listener.py for who reaches it."""

from collections.abc import Sequence
from pathlib import Path

from guard_control.api import messages
from guard_control.api.rollout_service import Context, RolloutService
from guard_control.fleets.local_fleet import LocalFleet
from guard_server.api.decoding import Received
from guard_server.api.handlers import faultless
from guard_server.gateway_status.last_minute import LastMinute
from qwen3guard.v1 import deployment_pb2 as pb


class DeploymentService(RolloutService):
    """Of the fleet that `guard serve` runs."""

    def __init__(self, fleet: LocalFleet, roots: Sequence[Path]) -> None:
        """`roots`: directories below which slots that are deployed must be."""
        super().__init__(fleet, roots)
        self.last_minute = LastMinute()
        self._local = fleet

    async def ListSlots(  # noqa: N802  (grpc's name)
        self, received: Received[pb.ListSlotsRequest], context: Context
    ) -> pb.ListSlotsResponse:
        await faultless(received, context)
        return messages.list_slots(self._local, self.last_minute)
