"""A network that stops forwarding: connections stay up, and no byte comes through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class StallingProxy:
    """Forwards TCP from its own `port` on loopback, but for what is stalled."""

    def __init__(self, target: int | str, host: str = "127.0.0.1", port: int = 0) -> None:
        """`target`: a port on loopback, or the path of a socket; what is set later is for new
        connections. `host`: of loopback too. `port`: 0: it is chosen by `start`.
        """
        self.target = target
        self.host, self.port = host, port
        self.accepted = 0  # connections
        self._forwards = asyncio.Event()
        self._forwards.set()
        self._gates: list[asyncio.Event] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Chooses its port, if it has none."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cuts off all connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def stall(self, *, later_ones: bool = True) -> None:
        """Connections forward nothing any more; `later_ones`: nor do those that are made later."""
        for gate in self._gates:
            gate.clear()
        if later_ones:
            self._forwards.clear()

    def resume(self) -> None:
        """All go on where they were."""
        self._forwards.set()
        for gate in self._gates:
            gate.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        gate = asyncio.Event()
        self._gates.append(gate)
        if self._forwards.is_set():
            gate.set()
        writers = [writer]
        try:
            await gate.wait()
            back, there = await self._connected()
            writers.append(there)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, there, gate))
                both.create_task(_pump(back, writer, gate))
        except (OSError, ExceptionGroup):
            pass  # one side is gone
        finally:
            for one in writers:
                one.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    while data := await source.read(2**16):
        await gate.wait()
        sink.write(data)
        await sink.drain()
    sink.close()


@asynccontextmanager
async def stalling_proxy(target: int) -> AsyncIterator[StallingProxy]:
    """To a port on loopback."""
    proxy = StallingProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
