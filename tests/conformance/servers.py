"""Servers that fail in the ways that the cases ask for, in the text of their conversations."""

import asyncio
import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme
from tokenizers import Tokenizer

from guard_core.slot.traffic import FILE_NAME, SlotTraffic, Traffic, save
from guard_core.tenants import key_file
from guard_server.app import serving
from guard_server.settings import Settings
from qwen3guard.v1.moderation_pb2 import (
    BatchModerateItem,
    BatchModerateResponse,
    ModerateResponse,
    StreamModerateRequest,
    StreamModerateResponse,
)
from qwen3guard.v1.moderation_pb2_grpc import (
    ModerationServiceServicer,
    add_ModerationServiceServicer_to_server,
)
from qwen3guard.v1.types_pb2 import ModelInfo
from tests.support.commands import start_gateway
from tests.support.gateway import AT_ONCE, Client, connect, gateway
from tests.support.ports import free_port
from tests.support.slots import TINY, tiny_files, write_slot
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, writes

Context = grpc.aio.ServicerContext[StreamModerateRequest, StreamModerateResponse]
_TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))
_END, _END_OF_TEXT = (int(_TOKENIZER.token_to_id(t) or 0) for t in ("<|im_end|>", "<|endoftext|>"))
_SERVICE = "qwen3guard.v1.ModerationService"
_ORDER = re.compile(r"\[engine: (\w+) (.*?)\]|\[engine: (\w+)\]")


class FaultEngine:
    """Does what the conversation says, `[engine: writes Unsafe; PII]`, or agrees to its draft."""

    def __init__(self) -> None:
        self.held: list[str] = []  # ids of requests that were never answered
        self.on_kill: Callable[[], None] | None = None
        self.on_swap: Callable[[], None] | None = None
        self._full: Counter[str] = Counter()
        self._full_since: dict[str, float] = {}

    def answer(self, asked: Asked) -> Answer:
        text = _TOKENIZER.decode(asked.prompt, skip_special_tokens=False)
        is_answer = "LAST ASSISTANT" in text
        orders = list(_ORDER.finditer(text))
        found = orders[-is_answer] if orders else None  # the last one, as an answer may grow
        verb, rest = (found[1] or found[3], found[2] or "") if found else ("agrees", "")
        agreed = asked.draft[:-1] if asked.draft[-1:] == [_END] else asked.draft
        match verb:
            case "agrees":
                return agreed
            case "writes":
                severity, categories = rest.split("; ")
                lines = f"Safety: {severity}\nCategories: {categories}"
                if is_answer:
                    lines += "\nRefusal: No"
                ids = _TOKENIZER.encode(lines, add_special_tokens=False).ids
                return writes([*ids, _END], end_id=_END)(asked)
            case "fails":
                return "Executor failed process requestId 7 due to ..."
            case "holds":
                self.held.append(asked.id)
                return None
            case "is":  # full N times, or full for N second
                full = self._is_full(text, *rest.split()[1:])
                return "Maximum queue size of 8 has been reached" if full else agreed
            case "server":  # is killed
                if not self.on_kill:
                    return agreed
                self.on_kill()
                return None
            case "traffic":  # goes to the other slot
                if self.on_swap:
                    self.on_swap()
                return agreed
        raise AssertionError(f"no such order: {found}")

    def _is_full(self, text: str, *how_long: str) -> bool:
        match how_long:
            case ("for", seconds, _):
                now = time.monotonic()
                return now < self._full_since.setdefault(text, now) + float(seconds)
            case (times, _):
                self._full[text] += 1
                return self._full[text] <= int(times)
        raise AssertionError(f"full for how long: {how_long}")


@dataclass
class Faults:
    """The fault engine, its gateways, and what the cases know them by."""

    servers: dict[str, str]
    authority: Path  # PEM, of the server that is called "tls"
    engine: FakeEngine
    orders: FaultEngine
    keys: dict[str, str]  # of the server that is called "keys"


@asynccontextmanager
async def faults(directory: Path) -> AsyncIterator[Faults]:
    slot = directory / "blue"
    _write(slot)
    orders = FaultEngine()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(fake_engine(orders.answer))
        steady = await stack.enter_async_context(gateway(slot, engine.port))
        await steady.until_serving()
        servers = {"faults": steady.port}
        killed = ("killed once", "killed in a stream", "killed in an answer")
        ports = (stack.enter_async_context(_killable(slot, steady.port, directory)) for _ in killed)
        servers |= zip(killed, await asyncio.gather(*ports), strict=True)
        servers["swapped"] = await stack.enter_async_context(_swapped(directory / "two"))
        servers["breaks streams"] = await stack.enter_async_context(_breaking_streams(steady))
        servers["refuses streams"] = await stack.enter_async_context(_refusing_streams())
        servers["mirror"] = await stack.enter_async_context(_mirror())
        servers["unreachable"] = free_port()
        addresses = {name: f"127.0.0.1:{port}" for name, port in servers.items()}
        authority, certificate = trustme.CA(), directory / "server.pem"
        issued = authority.issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        authority.cert_pem.write_to_path(directory / "ca.pem")
        secure = await stack.enter_async_context(
            gateway(slot, engine.port, tls_cert=certificate, tls_key=certificate)
        )
        addresses["tls"] = f"localhost:{secure.port}"
        addresses["no tls"] = f"localhost:{steady.port}"
        addresses["by name"] = f"dns:///localhost:{steady.port}"
        keys, settings = _keys(directory / "keys.json")
        known = await stack.enter_async_context(gateway(slot, engine.port, **settings))
        addresses["keys"] = f"127.0.0.1:{known.port}"
        yield Faults(addresses, directory / "ca.pem", engine, orders, keys)


def _keys(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """A good key and a revoked one, and the settings of a gateway that has them."""
    keys = {name: key_file.add(path, "search") for name in ("good", "revoked")}
    key_file.revoke(path, str(key_file.id_of(keys["revoked"])))
    return keys, {"keys": path, "callers": "known"}


@asynccontextmanager
async def _breaking_streams(judge: Client) -> AsyncIterator[int]:
    """The port of a server that breaks a connection's first three streams.

    It refuses the first two before it reads, and ends the third one well after one answer.
    """
    begun = Counter[str]()

    async def serve(requests: AsyncIterator[StreamModerateRequest], context: Context) -> Any:
        begun[context.peer()] += 1
        number = begun[context.peer()]
        if number < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This server stops.")
        async for asked in requests:
            reply = await judge.stub.Moderate(asked.request)
            yield StreamModerateResponse(id=asked.id, response=reply)
            if number == 3:
                return

    async with _serving_streams(serve) as port:
        yield port


@asynccontextmanager
async def _refusing_streams() -> AsyncIterator[int]:
    """The port of a server whose streams are not for this caller."""

    async def serve(_: object, context: Context) -> Any:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "This caller is not allowed.")
        yield

    async with _serving_streams(serve) as port:
        yield port


class _Mirror(ModerationServiceServicer):
    """Judges nothing: its model's name is what came as `x-trace` in the metadata."""

    async def Moderate(self, request: object, context: Any) -> ModerateResponse:  # noqa: N802
        [trace] = [value for key, value in context.invocation_metadata() if key == "x-trace"]
        return ModerateResponse(model=ModelInfo(name=trace))

    async def BatchModerate(  # noqa: N802
        self, request: Any, context: Any
    ) -> BatchModerateResponse:
        reply = await self.Moderate(request, context)
        return BatchModerateResponse(items=[BatchModerateItem(response=reply)])

    async def StreamModerate(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for asked in requests:
            content = asked.request.conversation[0].content
            if content == "never":
                continue
            await asyncio.sleep(1.3 if content == "late" else 0)
            reply = await self.Moderate(asked, context)
            yield StreamModerateResponse(id=asked.id, response=reply)

    def ModerateLive(self, requests: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


@asynccontextmanager
async def _mirror() -> AsyncIterator[int]:
    server = grpc.aio.server()
    add_ModerationServiceServicer_to_server(_Mirror(), server)
    async with _started(server) as port:
        yield port


@dataclass
class Holding:
    """Answers nothing until it is released, then everything."""

    port: int = 0
    asked: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def moderate(self, _request: bytes, _context: object) -> ModerateResponse:
        self.asked += 1
        await self.released.wait()
        return ModerateResponse()


@asynccontextmanager
async def holding() -> AsyncIterator[Holding]:
    server, found = grpc.aio.server(), Holding()
    method: Any = grpc.unary_unary_rpc_method_handler(
        found.moderate, response_serializer=ModerateResponse.SerializeToString
    )
    server.add_registered_method_handlers(_SERVICE, {"Moderate": method})
    async with _started(server) as found.port:
        yield found


@asynccontextmanager
async def _serving_streams(serve: Callable[..., Any]) -> AsyncIterator[int]:
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        serve, StreamModerateRequest.FromString, StreamModerateResponse.SerializeToString
    )
    server.add_registered_method_handlers(_SERVICE, {"StreamModerate": method})
    async with _started(server) as port:
        yield port


@asynccontextmanager
async def _started(server: grpc.aio.Server) -> AsyncIterator[int]:
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def _write(slot: Path) -> None:
    write_slot(slot, *tiny_files(), (_END, _END_OF_TEXT))


@asynccontextmanager
async def _swapped(directory: Path) -> AsyncIterator[int]:
    """The port of a server with a blue and a green slot. Blue's engine has the traffic moved."""
    orders = FaultEngine()
    async with fake_engine(orders.answer) as blue, fake_engine(orders.answer) as green:
        blue.delay_s = green.delay_s = 0.005  # a stream shall take longer than a change of traffic
        for name in ("blue", "green"):
            _write(directory / name)

        def move(weights: dict[str, int], generation: int) -> None:
            slots = {
                name: SlotTraffic(
                    directory=directory / name,
                    triton=f"127.0.0.1:{engine.port}",
                    weight=weights[name],
                )
                for name, engine in (("blue", blue), ("green", green))
            }
            save(Traffic(generation=generation, slots=slots), directory / FILE_NAME)

        move({"blue": 1, "green": 0}, 1)
        orders.on_swap = lambda: move({"blue": 0, "green": 1}, 2)
        settings = Settings(traffic=directory / FILE_NAME, port=0)
        async with serving(settings, AT_ONCE) as running, connect(running.port) as client:
            await client.until_serving()
            yield running.port


@asynccontextmanager
async def _killable(slot: Path, successor: int, directory: Path) -> AsyncIterator[int]:
    """A port with a server process behind it, and after a kill the successor.

    It has an engine of its own, which has it killed.
    """
    orders, port = FaultEngine(), free_port()
    async with fake_engine(orders.answer) as engine:
        settings = {"slot": slot, "triton": f"127.0.0.1:{engine.port}", "port": port}
        with start_gateway(directory / f"{port}.txt", **settings) as process:
            backend = port

            def kill() -> None:
                nonlocal backend
                backend = successor
                process.signal(signal.SIGKILL)

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await _joined(reader, writer, backend)

            orders.on_kill = kill
            async with connect(port) as client:
                await client.channel.channel_ready()
                await client.until_serving()
            async with await asyncio.start_server(forward, "127.0.0.1", 0) as front:
                yield front.sockets[0].getsockname()[1]


@dataclass
class Counted:
    """A port of its own before a server, which counts connections."""

    address: str = ""
    opened: int = 0
    ended: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def break_off(self) -> None:
        """Ends all connections, as a process that dies."""
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def counted(backend: int) -> AsyncIterator[Counted]:
    found = Counted()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.opened += 1
        found.writers.append(writer)
        await _joined(reader, writer, backend)
        found.ended += 1

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as front:
        found.address = f"127.0.0.1:{front.sockets[0].getsockname()[1]}"
        yield found


@asynccontextmanager
async def plain(directory: Path) -> AsyncIterator[Client]:
    """A gateway, ready, before an engine that obeys conversations."""
    slot = directory / "blue"
    _write(slot)
    async with (
        fake_engine(FaultEngine().answer) as engine,
        gateway(slot, engine.port) as client,
    ):
        await client.until_serving()
        yield client


async def _joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Passes all that is said on to a port, and back, until either side ends."""
    with contextlib.suppress(OSError):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends; then the other one ends too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
