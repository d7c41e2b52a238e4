"""FLEET.yaml: where a fleet's gateways, its traffic.json and its slots are."""

import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator

from guard_core.schema import Record, first_problem
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotName, Tritons

Address = Annotated[str, Field(pattern=r"^\S+:[0-9]+$")]


class FleetInvalid(Exception):
    """A fleet's file that can't be used. The text says where and why."""


class GatewayList(Record):
    """Gateways that are named one by one."""

    list: tuple[Address, ...] = Field(
        min_length=1, description="The addresses of their status services, HOST:PORT."
    )

    @field_validator("list")
    @classmethod
    def _names_each_once(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(found)) < len(found):
            raise ValueError("names a gateway twice")
        return found


class GatewayDns(Record):
    """Gateways behind one name, such as a headless Service's: one for each of its addresses."""

    dns: str = Field(
        pattern=r"^[^\s:/\[\]]+:[0-9]+$",
        description="HOST:PORT. TLS verifies this name, whichever of its addresses is dialled.",
    )


class OperatorTls(Record):
    """PEM files, relative to FLEET.yaml."""

    ca: Path = Field(description="The authorities of the gateways' certificates.")
    cert: Path = Field(description="The certificate chain that the gateways are shown.")
    key: Path


def _form(given: object) -> str:
    listed = isinstance(given, GatewayList) or (isinstance(given, dict) and "list" in given)
    return "list" if listed else "dns"


GatewayAddresses = Annotated[
    Annotated[GatewayList, Tag("list")] | Annotated[GatewayDns, Tag("dns")],
    Discriminator(_form),  # an error is then about the form that was meant
]


class FileTraffic(Record):
    """traffic.json as a file that all gateways follow."""

    file: Path


class ConfigMap(Record):
    """A ConfigMap that is mounted in every gateway's pod."""

    name: str = Field(min_length=1)
    namespace: str = Field(min_length=1)
    key: str = Field(default=traffic.FILE_NAME, min_length=1)
    kubeconfig: Path | None = Field(
        default=None,
        description="How to reach the API; default: this pod's service account, or the user's.",
    )


class ConfigMapTraffic(Record):
    """traffic.json in a ConfigMap."""

    config_map: ConfigMap


class CommandTraffic(Record):
    """traffic.json by a command of the operator's: see stores.command_store."""

    command: tuple[str, ...] = Field(
        min_length=1, description="Its words; the first is a path, or a program on PATH."
    )


def _kept(given: object) -> str:
    for form, kind in (("config_map", ConfigMapTraffic), ("command", CommandTraffic)):
        if isinstance(given, kind) or (isinstance(given, dict) and form in given):
            return form
    return "file"


KeptTraffic = Annotated[
    Annotated[FileTraffic, Tag("file")]
    | Annotated[ConfigMapTraffic, Tag("config_map")]
    | Annotated[CommandTraffic, Tag("command")],
    Discriminator(_kept),
]


class SlotPlace(Record):
    """Where a slot is, for the gateways and for who rolls it out."""

    directory: Path = Field(description="Of its files, as the gateways see them.")
    files: Path | None = Field(
        default=None, description="Of its files on this machine; default: the same path."
    )
    triton: Tritons = Field(description="As in traffic.json.")
    replicas: int = Field(
        default=sys.maxsize,
        ge=1,
        description="Ready Tritons that are enough for all of the traffic; default: as many as the "
        "slot has that has the traffic.",
    )


class FleetFile(Record):
    """All of FLEET.yaml."""

    gateways: GatewayAddresses
    tls: OperatorTls
    traffic: KeptTraffic
    slots: dict[SlotName, SlotPlace] = Field(min_length=1)
    triton_tls: OperatorTls | None = Field(
        default=None, description="What Tritons are shown when a candidate is verified."
    )

    @field_validator("slots")
    @classmethod
    def _files_are_named_by_the_slot(cls, slots: dict[str, SlotPlace]) -> dict[str, SlotPlace]:
        for name, place in slots.items():
            if (place.files or place.directory).name != name:
                raise ValueError(f"the directory of {name}'s files here has another name")
        return slots

    def files(self, name: str) -> Path:
        """Of a slot's files on this machine."""
        place = self.slots[name]
        return place.files or place.directory


def load(path: Path) -> FleetFile:
    """Raises FleetInvalid, also if a certificate's file is not there."""
    try:
        text = path.read_bytes()
        _check_keys(yaml.compose(text, yaml.SafeLoader))
        fleet = FleetFile.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise FleetInvalid(f"{path} can't be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise FleetInvalid(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        raise FleetInvalid(f"{path}: {first_problem(error)}. Correct the file.") from None
    beside = path.absolute().parent
    found: dict[str, Any] = {
        "slots": {
            name: place.model_copy(update={"files": beside / (place.files or place.directory)})
            for name, place in fleet.slots.items()
        },
        "tls": _beside(path, "tls", fleet.tls),
    }
    found["traffic"] = _kept_beside(fleet.traffic, beside)
    if fleet.triton_tls is not None:
        found["triton_tls"] = _beside(path, "triton_tls", fleet.triton_tls)
    return fleet.model_copy(update=found)


def _kept_beside(kept: KeptTraffic, beside: Path) -> KeptTraffic:
    if isinstance(kept, FileTraffic):
        return FileTraffic(file=beside / kept.file)
    if isinstance(kept, CommandTraffic):
        program, *words = kept.command
        return CommandTraffic(
            command=(str(beside / program) if "/" in program else program, *words)
        )
    kubeconfig = kept.config_map.kubeconfig
    if kubeconfig is None:
        return kept
    found = kept.config_map.model_copy(update={"kubeconfig": beside / kubeconfig})
    return ConfigMapTraffic(config_map=found)


def _beside(path: Path, key: str, tls: OperatorTls) -> OperatorTls:
    files = {name: path.absolute().parent / file for name, file in tls}
    for name, file in files.items():
        if not file.is_file():
            raise FleetInvalid(f"{path}: {key}.{name}: there is no file {file}.")
    return OperatorTls(**files)


def _check_keys(node: Any) -> None:
    """Raises YAMLError for a key that is there twice, of which YAML would take the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value} is there twice{key.start_mark}")
            seen.add(key.value)
            _check_keys(value)
