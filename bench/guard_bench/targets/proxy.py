"""The bare proxy that the gateway is measured against: python -m guard_bench.targets.proxy TRITON.

It forwards a ModelInferRequest's bytes over one long-lived stream, and the answer's bytes back. It
parses nothing: the id that matches an answer with its request is cut out of the bytes where the
load puts it. So it does what every gateway has to do, and nothing else. Its port is its first line.
"""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from guard_bench.loadgen.encoded_calls import ID_BYTES, ID_TAG, INFER, PROXY_SERVICE
from guard_bench.targets.processes import running

_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", 1024)]

_Context = grpc.aio.ServicerContext[bytes, bytes]


@contextmanager
def proxy(triton: str) -> Iterator[str]:
    """Runs the proxy in a process of its own; gives its address."""
    with running([sys.executable, "-m", "guard_bench.targets.proxy", triton]) as process:
        assert process.stdout is not None  # noqa: S101  (for the type checker)
        yield f"127.0.0.1:{int(process.stdout.readline())}"


class _Upstream:
    """One stream to Triton for all callers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.stream_stream(INFER)()
        self._outgoing: deque[bytes] = deque()
        self._written = asyncio.Event()
        self._waiting: dict[bytes, Callable[[bytes], None]] = {}

    def send(self, request: bytes, answer: Callable[[bytes], None]) -> None:
        self._waiting[_id(request)] = answer
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
            self._waiting.pop(_id(response))(response)


class _Service:
    """The two methods that callers use; both forward to the one stream."""

    def __init__(self, upstream: _Upstream) -> None:
        self._upstream = upstream

    async def unary(self, request: bytes, _context: _Context) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._upstream.send(request, answer.set_result)
        return await answer

    async def stream(self, _requests: object, context: Any) -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def write() -> None:
            while True:
                await context.write(await answers.get())

        writer = asyncio.create_task(write())
        while (request := await context.read()) is not grpc.aio.EOF:
            self._upstream.send(request, answers.put_nowait)
        writer.cancel()


def _id(message: bytes) -> bytes:
    start = message.index(ID_TAG) + len(ID_TAG)
    return message[start : start + ID_BYTES]


async def main(triton: str) -> None:
    """Serves until SIGTERM."""
    async with grpc.aio.insecure_channel(triton) as channel:
        upstream = _Upstream(channel)
        service = _Service(upstream)
        server = grpc.aio.server(options=_OPTIONS)
        methods: dict[str, Any] = {
            "Infer": grpc.unary_unary_rpc_method_handler(service.unary),
            "StreamInfer": grpc.stream_stream_rpc_method_handler(service.stream),
        }
        handler = grpc.method_handlers_generic_handler(PROXY_SERVICE, methods)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        tasks = [asyncio.create_task(upstream.write()), asyncio.create_task(upstream.read())]
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        for task in tasks:
            task.cancel()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
