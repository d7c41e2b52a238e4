"""grpc.health.v1: whether the server and its services are serving.

Written here, because in grpcio-health-checking 1.81 the end of one Watch orphans every other, a
Watch that is not read blocks the caller that sets the status, and List is missing. Newer ones need
a newer protobuf than tritonclient allows.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from guard_server.api.calls import Context
from guard_server.api.decoding import Received
from guard_server.api.handlers import MOST_BYTES_WITHOUT_TURN, faultless, generic_handler

_LIST = """
message_type { name: "HealthListRequest" }
message_type {
  name: "HealthListResponse"
  field {
    name: "statuses" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE json_name: "statuses"
    type_name: ".grpc.health.v1.HealthListResponse.StatusesEntry"
  }
  nested_type {
    name: "StatusesEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING json_name: "key" }
    field {
      name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE json_name: "value"
      type_name: ".grpc.health.v1.HealthCheckResponse"
    }
  }
}
"""
_LIST_METHOD = """
name: "List"
input_type: ".grpc.health.v1.HealthListRequest"
output_type: ".grpc.health.v1.HealthListResponse"
"""


def _service() -> Any:
    file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    text_format.Merge(_LIST, file)
    text_format.Merge(_LIST_METHOD, file.service[0].method.add())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("grpc.health.v1.Health")


SERVICE = _service()
_Status: Any = GetMessageClass(SERVICE.methods_by_name["Check"].output_type)
_Statuses: Any = GetMessageClass(SERVICE.methods_by_name["List"].output_type)


class Health:
    """One status for the server as a whole (the empty name) and each of its services."""

    def __init__(self, *services: str) -> None:
        self._services = ("", *services)
        self._serving = False
        self._for_good = False
        self._closed = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool, for_good: bool = False) -> None:
        """Updates every Watch at once. After `for_good` it changes no more."""
        if not self._for_good:
            self._serving, self._for_good = serving, for_good
            self._notify()

    def close(self) -> None:
        """Ends every Watch."""
        self._closed = True
        self._notify()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for `grpc.aio.Server.add_generic_rpc_handlers`."""
        # Not strict: a load balancer's newer field must not make the server unhealthy.
        return generic_handler(SERVICE, self, strict=False, most_bytes=MOST_BYTES_WITHOUT_TURN)

    async def Check(  # noqa: N802  (grpc's name, as those below)
        self, received: Received[Any], context: Context
    ) -> Any:
        request = await faultless(received, context)
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of that name.")
        return _Status(status=self._status(request.service))

    async def List(  # noqa: N802
        self, received: Received[Any], context: Context
    ) -> Any:
        await faultless(received, context)
        statuses = {service: _Status(status=self._status(service)) for service in self._services}
        return _Statuses(statuses=statuses)

    async def Watch(  # noqa: N802
        self, received: Received[Any], context: Context
    ) -> AsyncIterator[Any]:
        request = await faultless(received, context)
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                yield _Status(status=status)
                last = status
            if self._closed:  # only now, so that every Watch gets the last status
                return
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
