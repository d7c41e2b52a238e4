"""The slots in a fleet's traffic, which a scheduler runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from guard_control.errors import PreconditionFailed
from guard_control.gateways.fleet_file import FleetFile
from guard_core.engine.channel import TritonTls
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import DirectSlot
from guard_core.slot.traffic import SlotTraffic, Traffic, TritonDns
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot


class GatewaySlot:
    """One of them, by its entry in the traffic, its place in FLEET.yaml and what gateways say."""

    def __init__(
        self, name: str, entry: SlotTraffic, file: FleetFile, snapshot: WorkerSnapshot
    ) -> None:
        self.name = name
        self._entry = entry
        self._file = file
        self._snapshot = snapshot

    @property
    def replicas(self) -> int:
        return self._file.slots[self.name].replicas

    @property
    def fingerprint(self) -> str | None:
        """None if neither the traffic nor a gateway says it."""
        seen = [status.fingerprint for status in self._snapshot.slot(self.name).values()]
        return self._entry.fingerprint or (seen[0] if seen else None)

    @property
    def manifest(self) -> Manifest:
        """Of its files on this machine. Raises PreconditionFailed."""
        try:
            found = Manifest.load(self._files)
        except SlotInvalid as error:
            raise PreconditionFailed(
                f"{error} The files of {self.name} are needed here too, to compare verdicts: "
                "`files` in FLEET.yaml says where they are."
            ) from None
        if self.fingerprint not in (None, found.fingerprint):
            raise PreconditionFailed(
                f"{self._files} holds {found.fingerprint}, but the gateways serve "
                f"{self.fingerprint} as {self.name}. Put the same files there."
            )
        return found

    def engines(self) -> Sequence[DirectSlot]:
        """One for each Triton that a gateway knows. Raises PreconditionFailed."""
        _ = self.manifest  # the files are those that the gateways serve
        tls = self._file.triton_tls
        triton = self._entry.triton
        name = triton.dns.rpartition(":")[0] if isinstance(triton, TritonDns) else ""
        try:
            return [
                DirectSlot(
                    self._files,
                    address,
                    name=self.name,
                    strict_completion=True,
                    tls=TritonTls(tls.ca, tls.cert, tls.key) if tls else None,
                    verified_name=name,
                )
                for address in self._addresses()
            ]
        except (SlotInvalid, OSError) as error:
            raise PreconditionFailed(str(error)) from None

    @property
    def _files(self) -> Path:
        return self._file.files(self.name)

    def _addresses(self) -> list[str]:
        if isinstance(self._entry.triton, str):
            return [self._entry.triton]
        seen = self._snapshot.slot(self.name).values()
        return sorted({address for status in seen for address in status.replicas})


class GatewaySlots:
    """All slots in the traffic."""

    def __init__(
        self,
        file: FleetFile,
        traffic: Callable[[], Traffic],
        snapshot: Callable[[], WorkerSnapshot],
    ) -> None:
        """`traffic`, `snapshot`: as they are now."""
        self._file = file
        self._traffic = traffic
        self._snapshot = snapshot

    def __contains__(self, name: str) -> bool:
        return name in self._traffic().slots

    def __getitem__(self, name: str) -> GatewaySlot:
        """Raises PreconditionFailed if FLEET.yaml does not have it."""
        if name not in self._file.slots:
            raise PreconditionFailed(f"FLEET.yaml has no slot {name}: add it to `slots`.")
        return GatewaySlot(name, self._traffic().slots[name], self._file, self._snapshot())
