"""Connections from another address of this machine: gRPC's clients can't choose their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 2**16


@asynccontextmanager
async def relayed(target: str, source: str, most: int | None = None) -> AsyncIterator[str]:
    """Gives an address whose connections come to `target`, HOST:PORT, from the address `source`.

    Of what the caller sends on one, no more than `most` bytes are passed on: it is never finished.
    """
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
            for coroutine in (_pass(reader, there[1], most), _pass(there[0], writer, None)):
                task = asyncio.create_task(coroutine)
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
) -> None:
    passed = 0
    try:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if most is not None:
                    data = data[: most - passed]
                passed += len(data)
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
