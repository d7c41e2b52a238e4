"""FLEET.yaml: where a fleet's gateways are, and what they are shown."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator

from guard_core.schema import Record, first_problem

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


class FleetFile(Record):
    """All of FLEET.yaml."""

    gateways: GatewayAddresses
    tls: OperatorTls


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
    beside = path.parent
    files = {name: beside / file for name, file in fleet.tls}
    for name, file in files.items():
        if not file.is_file():
            raise FleetInvalid(f"{path}: tls.{name}: there is no file {file}.")
    return fleet.model_copy(update={"tls": OperatorTls(**files)})


def _check_keys(node: Any) -> None:
    """Raises YAMLError for a key that is there twice, of which YAML would take the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value} is there twice{key.start_mark}")
            seen.add(key.value)
            _check_keys(value)
