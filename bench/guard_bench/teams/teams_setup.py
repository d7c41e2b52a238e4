"""Gateways with tenants before a null engine, and the files that they follow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_bench.targets.gateway_process import GatewayProcess, gateway
from guard_core.tenants import key_file
from guard_core.tenants.key_file import KeyFile, KeyRecord

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ServedSlot:
    """A slot, and the Triton that runs it."""

    slot: Path
    triton: str


def key_of(directory: Path, tenant: str, keys: int = 1) -> tuple[Path, Metadata]:
    """A keys.json with so many keys, and the metadata of one of that tenant's."""
    path = directory / f"keys-{keys}.json"
    path.unlink(missing_ok=True)
    key = key_file.add(path, tenant)
    [record] = key_file.load(path).keys.values()
    others = {f"{number:016x}": _other(record, number) for number in range(1, keys)}
    file = KeyFile(keys={**key_file.load(path).keys, **others})
    path.write_text(file.model_dump_json())
    return path, (("authorization", f"Bearer {key}"),)


def _other(record: KeyRecord, number: int) -> KeyRecord:
    return record.model_copy(update={"tenant": f"team-{number}"})


def write(path: Path, file: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(file))
    return path


@contextmanager
def gateways(
    engine: ServedSlot, directory: Path, settings: Mapping[str, str], workers: int
) -> Iterator[Sequence[GatewayProcess]]:
    """So many processes, each with a port of its own, that are the workers of one gateway."""
    status = directory / "status"
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                gateway(
                    engine.slot,
                    engine.triton,
                    directory / f"gateway-{number}.log",
                    {**settings, "status": str(status), "worker": str(number)},
                )
            )
            for number in range(workers)
        ]
