"""A gRPC server that answers every call at once with nothing: what an attack costs the machine.

python -m guard_bench.targets.sink PORT
"""

import asyncio
import sys
from typing import Any

import grpc

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 2**15)]


class _Nothing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(_request: bytes, _context: object) -> bytes:
    return b""


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Nothing(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
