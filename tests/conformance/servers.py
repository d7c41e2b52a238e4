"""Servers that fail in the ways that the cases ask for, in the text of their conversations."""

import asyncio
import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from tests.support.fake_engine import Answer, Asked, FakeEngine, fake_engine, writes
from tests.support.gateway import connect, gateway
from tests.support.ports import free_port
from tests.support.slots import TINY, tiny_files, write_slot

_TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))
_END = _TOKENIZER.token_to_id("<|im_end|>")
_ORDER = re.compile(r"\[engine: (\w+) (.*?)\]|\[engine: (\w+)\]")


class FaultEngine:
    """Does what the conversation says, `[engine: writes Unsafe; PII]`, or agrees to its draft."""

    def __init__(self) -> None:
        self.held: list[str] = []  # ids of requests that were never answered
        self._kill: Callable[[], None] | None = None
        self._full: Counter[str] = Counter()

    def on_kill(self, kill: Callable[[], None]) -> None:
        self._kill = kill

    def answer(self, asked: Asked) -> Answer:
        text = _TOKENIZER.decode(asked.prompt, skip_special_tokens=False)
        found = _ORDER.search(text)
        verb, rest = (found[1] or found[3], found[2] or "") if found else ("agrees", "")
        match verb:
            case "agrees":
                return asked.draft
            case "writes":
                severity, categories = rest.split("; ")
                lines = f"Safety: {severity}\nCategories: {categories}"
                ids = _TOKENIZER.encode(lines, add_special_tokens=False).ids
                return writes([*ids, _END], end_id=_END)(asked)
            case "fails":
                return "Executor failed process requestId 7 due to ..."
            case "holds":
                self.held.append(asked.id)
                return None
            case "is":  # full N times
                self._full[text] += 1
                if self._full[text] <= int(rest.split()[1]):
                    return "Maximum queue size of 8 has been reached"
                return asked.draft
            case "server":  # is killed
                if not self._kill:
                    return asked.draft
                self._kill()
                return None
        raise AssertionError(f"no such order: {found}")


@dataclass
class Faults:
    """The fault engine, its gateways, and what the cases know them by."""

    servers: dict[str, str]
    engine: FakeEngine
    orders: FaultEngine


@asynccontextmanager
async def faults(directory: Path) -> AsyncIterator[Faults]:
    slot = directory / "blue"
    end_ids = (_END, _TOKENIZER.token_to_id("<|endoftext|>"))
    write_slot(slot, *tiny_files(), end_ids)
    orders = FaultEngine()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(fake_engine(orders.answer))
        steady = await stack.enter_async_context(gateway(slot, engine.port))
        await steady.until_serving()
        servers = {"faults": steady.port}
        for name in ("killed once", "killed in a stream"):
            servers[name] = await stack.enter_async_context(_killable(slot, steady.port))
        servers["nobody"] = free_port()
        addresses = {name: f"127.0.0.1:{port}" for name, port in servers.items()}
        yield Faults(addresses, engine, orders)


@asynccontextmanager
async def _killable(slot: Path, successor: int) -> AsyncIterator[int]:
    """A port with a server process behind it, and after a kill the successor.

    It has an engine of its own, which has it killed.
    """
    orders, port = FaultEngine(), free_port()
    async with fake_engine(orders.answer) as engine:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "guard_server"),
            env={
                **os.environ,
                "GUARD_SLOT": str(slot),
                "GUARD_TRITON": f"127.0.0.1:{engine.port}",
                "GUARD_PORT": str(port),
            },
            stderr=asyncio.subprocess.DEVNULL,
        )
        backend = port

        def kill() -> None:
            nonlocal backend
            backend = successor
            process.kill()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", backend)
                await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))

        orders.on_kill(kill)
        try:
            async with connect(port) as client:
                await client.channel.channel_ready()
                await client.until_serving()
            async with await asyncio.start_server(forward, "127.0.0.1", 0) as front:
                yield front.sockets[0].getsockname()[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends; then the other one ends too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
