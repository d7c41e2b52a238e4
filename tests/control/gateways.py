"""Several gateways that follow one traffic file, with their status services, and FLEET.yaml."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard_control.gateways import fleet_file
from guard_control.gateways.fleet_store import store_of
from guard_control.gateways.gateway_fleet import GatewayFleet
from guard_control.gateways.gateway_watch import watching
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic
from guard_server.app import serving
from guard_server.settings import Settings
from guard_server.wiring import Gateway
from tests.support.gateway import AT_ONCE, Client, connect
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until
from tests.support.tls_files import TlsFiles, tls_files
from tests.support.two_slots import TrafficFile

_VOCABULARY = 20_000  # for the scores that a verification asks for
WriteSlot = Callable[..., Path]


@dataclass
class OneGateway:
    """A gateway in the test's own process."""

    status: str  # its status service's address
    gateway: Gateway
    client: Client
    stop: Callable[[], Any]


@dataclass
class Gateways:
    """All of them, before the engines of blue and green."""

    directory: Path
    tls: TlsFiles
    file: TrafficFile
    blue: FakeEngine
    green: FakeEngine
    all: list[OneGateway] = field(default_factory=list)

    @property
    def fleet_yaml(self) -> Path:
        return self.directory / "fleet.yaml"

    async def start(self, **settings: Any) -> OneGateway:
        """One more, ready."""
        stack, port = AsyncExitStack(), free_port()
        given: dict[str, Any] = {
            "status_port": port,
            "status_tls_cert": self.tls.cert,
            "status_tls_key": self.tls.key,
            "status_tls_client_ca": self.tls.ca,
            **{"traffic": self.file.path, "port": 0, "cache_mib": 0, **settings},
        }
        running = await stack.enter_async_context(serving(Settings(**given), AT_ONCE))
        client = await stack.enter_async_context(connect(running.port))
        one = OneGateway(f"127.0.0.1:{port}", running, client, stack.aclose)
        self.all.append(one)
        await until(lambda: all(slot.ready for slot in running.router.endpoints.values()))
        return one

    def write_fleet(self, *also: str) -> None:
        """FLEET.yaml with the gateways that run, and these addresses."""
        listed = [*(one.status for one in self.all), *also]
        self.fleet_yaml.write_text(fleet_text(listed, self.file))

    @asynccontextmanager
    async def operated(self) -> AsyncIterator[GatewayFleet]:
        """An operator's view of it."""
        given = fleet_file.load(self.fleet_yaml)
        store = store_of(given)
        async with watching(given.gateways, given.tls) as watch:
            yield GatewayFleet(given, store, await store.read(), watch)


def fleet_text(listed: list[str], file: TrafficFile) -> str:
    slots = {
        name: {"directory": str(entry.directory), "triton": entry.triton}
        for name, entry in file.slots.items()
    }
    return (
        f"gateways: {{list: {listed}}}\n"
        "tls: {ca: ca.pem, cert: operator.pem, key: operator.key}\n"
        f"traffic: {{file: {file.path}}}\n"
        f"slots: {slots}\n"
    )


def slot_files(directory: Path, write_slot: WriteSlot, **ports: int) -> TrafficFile:
    """Slots whose directories have their names: all of the traffic is the first one's."""
    slots = {}
    for number, (name, port) in enumerate(ports.items()):
        # Another limit makes another fingerprint.
        made = write_slot(directory / f"made {name}", max_in_flight=32 + number)
        slots[name] = SlotTraffic(
            directory=made.rename(directory / name),
            triton=f"127.0.0.1:{port}",
            weight=0 if number else 100,
        )
    file = TrafficFile(directory / "traffic.json", Traffic(generation=0, slots=slots), slots)
    traffic.save(file.traffic, file.path)
    return file


@asynccontextmanager
async def gateways(
    directory: Path, write_slot: WriteSlot, answer: Callable[[Asked], Answer], count: int = 2
) -> AsyncIterator[Gateways]:
    """Blue has all of the traffic. An operator's certificate is in the directory too."""
    tls = tls_files(directory)
    operator = tls.authority.issue_cert("operator@example.org")
    operator.private_key_pem.write_to_path(directory / "operator.key")
    operator.cert_chain_pems[0].write_to_path(directory / "operator.pem")
    async with fake_engine(answer, _VOCABULARY) as blue, fake_engine(answer, _VOCABULARY) as green:
        file = slot_files(directory, write_slot, blue=blue.port, green=green.port)
        found = Gateways(directory, tls, file, blue, green)
        try:
            for _ in range(count):
                await found.start()
            found.write_fleet()
            yield found
        finally:
            for one in found.all:
                await one.stop()
