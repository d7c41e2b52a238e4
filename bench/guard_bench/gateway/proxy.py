"""The bare proxy that the gateway is measured against: python -m guard_bench.gateway.proxy TRITON.

It forwards a ModelInferRequest's bytes over one long-lived stream, and the answer's bytes back. It
parses nothing: the id, which tells the answers apart, is cut out of the bytes where the load puts
it. So it does what no gateway can do without, and nothing else. Its port is its first line.
"""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from guard_bench.gateway.traffic import ID_BYTES, ID_TAG, INFER

SERVICE = "guard_bench.Proxy"
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", 1024)]

_Context = grpc.aio.ServicerContext[bytes, bytes]


class _Upstream:
    """One stream to Triton for everybody."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.stream_stream(INFER)()
        self._outgoing: deque[bytes] = deque()
        self._written = asyncio.Event()
        self.waiting: dict[bytes, Callable[[bytes], None]] = {}

    def send(self, request: bytes, answer: Callable[[bytes], None]) -> None:
        self.waiting[_id(request)] = answer
        self._outgoing.append(request)
        self._written.set()

    async def write(self) -> None:
        while True:
            while self._outgoing:
                await self._call.write(self._outgoing.popleft())
            self._written.clear()
            await self._written.wait()

    async def read(self) -> None:
        while (response := await self._call.read()) is not grpc.aio.EOF:
            self.waiting.pop(_id(response))(response)


def _id(message: bytes) -> bytes:
    start = message.index(ID_TAG) + len(ID_TAG)
    return message[start : start + ID_BYTES]


async def main(target: str) -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(target) as channel:
        upstream = _Upstream(channel)

        async def unary(request: bytes, _context: _Context) -> bytes:
            answer = loop.create_future()
            upstream.send(request, answer.set_result)
            return await answer  # type: ignore[no-any-return]

        async def stream(_requests: object, context: Any) -> None:
            answers: asyncio.Queue[bytes] = asyncio.Queue()

            async def write() -> None:
                while True:
                    await context.write(await answers.get())

            writer = asyncio.create_task(write())
            while (request := await context.read()) is not grpc.aio.EOF:
                upstream.send(request, answers.put_nowait)
            writer.cancel()

        server = grpc.aio.server(options=_OPTIONS)
        handlers: dict[str, Any] = {
            "Infer": grpc.unary_unary_rpc_method_handler(unary),
            "StreamInfer": grpc.stream_stream_rpc_method_handler(stream),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        tasks = [asyncio.create_task(upstream.write()), asyncio.create_task(upstream.read())]
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        for task in tasks:
            task.cancel()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
