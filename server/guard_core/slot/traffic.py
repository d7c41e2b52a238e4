"""Which slots there are and which of them get the traffic: one small file, `traffic.json`.

The operator's side replaces the file as a whole: the control plane by a rename, Kubernetes
by exchanging the link of a ConfigMap's volume. Each gateway process follows it by itself.
"""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from guard_core import files
from guard_core.errors import SlotInvalid, TrafficInvalid, quoted
from guard_core.schema import Record, first_problem

FILE_NAME = "traffic.json"
_POLL_S = 0.05

_FINGERPRINT = r"^[0-9a-f]{16}$"
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
SlotName = Annotated[str, Field(pattern=_NAME)]
TritonAddress = Annotated[str, Field(pattern=r"^\S+:[0-9]+$")]


class TritonList(Record):
    """Tritons that are named one by one."""

    list: tuple[TritonAddress, ...] = Field(min_length=1, description="Their gRPC addresses.")

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.list)) < len(self.list):
            raise ValueError("names a Triton twice")
        return self


class TritonDns(Record):
    """Tritons behind one name, such as a headless Service's: one for each of its addresses."""

    dns: str = Field(
        pattern=r"^[^\s:/\[\]]+:[0-9]+$",
        description="HOST:PORT. TLS verifies this name, whichever of its addresses is dialled.",
    )


def _form(given: object) -> str:
    if isinstance(given, str):
        return "address"
    listed = isinstance(given, TritonList) or (isinstance(given, dict) and "list" in given)
    return "list" if listed else "dns"


Tritons = Annotated[
    Annotated[TritonAddress, Tag("address")]
    | Annotated[TritonList, Tag("list")]
    | Annotated[TritonDns, Tag("dns")],
    Discriminator(_form),  # an error is then about the form that was meant
]


class SlotTraffic(Record):
    """Where a slot is, and its traffic weight."""

    directory: Path = Field(description="Its manifest, template and tokenizer lie here.")
    triton: Tritons = Field(
        description="gRPC address of its Triton, HOST:PORT or unix:PATH:NUMBER; or several."
    )
    fingerprint: str | None = Field(
        default=None,
        pattern=_FINGERPRINT,
        description="The manifest's; if given, a directory that holds another one is refused.",
    )
    weight: int = Field(
        ge=0, le=1_000_000, description="Relative traffic weight; at 0 the slot is kept warm."
    )

    def same_slot(self, other: "SlotTraffic") -> bool:
        """Whether the two differ in nothing but the weight and which of several Tritons there are.

        Another single Triton is another slot: its verdicts come from elsewhere at once.
        """
        changed: dict[str, object] = {"weight": other.weight}
        if not isinstance(self.triton, str) and not isinstance(other.triton, str):
            changed["triton"] = other.triton
        return self.model_copy(update=changed) == other


class ShadowTraffic(Record):
    """Live requests that a slot judges as well, for comparison: callers never see its verdicts."""

    slot: str
    share: float = Field(gt=0, le=1, description="Of the requests, chosen at random.")


class RolloutLease(Record):
    """Who alone may change the traffic of a fleet, and what a rollout that has died leaves."""

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    holder: str = Field(max_length=200, description="Who changes the traffic, for people.")
    change: str = Field(max_length=200, description="What is changed, for people.")
    slot: SlotName | None = Field(default=None, description="The candidate, if it is a rollout.")
    beats: int = Field(ge=0, description="It grows while the holder lives.")
    lease_s: float = Field(gt=0, description="A holder without a beat for so long is dead.")
    before: dict[SlotName, int] | None = Field(
        default=None, description="The weights to give back, since the candidate may have traffic."
    )


class RollbackSlot(Record):
    """The slot that had the traffic before the last rollout."""

    slot: SlotName
    fingerprint: str = Field(pattern=_FINGERPRINT, description="The manifest's.")


class Traffic(Record):
    """All of `traffic.json`."""

    schema_version: Literal[1, 2, 3] = Field(
        default=1,
        description="2: a slot may have several Tritons. 3: with what rollouts of a fleet write.",
    )
    generation: int = Field(ge=0, description="Number of this state, which gateways report.")
    slots: dict[SlotName, SlotTraffic] = Field(min_length=1, description="By the slot's name.")
    shadow: ShadowTraffic | None = None
    rollout: RolloutLease | None = Field(
        default=None, description="Of a fleet's rollout; gateways ignore it."
    )
    rollback_to: RollbackSlot | None = Field(
        default=None, description="Of a fleet's rollouts; gateways ignore it."
    )

    @model_validator(mode="after")
    def _has_somewhere_to_go(self) -> Self:
        if not any(slot.weight for slot in self.slots.values()):
            raise ValueError("give at least one slot a weight above 0")
        if self.shadow and self.shadow.slot not in self.slots:
            raise ValueError(f"the shadow slot {self.shadow.slot} is none of the slots")
        if self.schema_version < _version_for(self.slots):
            raise ValueError("several Tritons of a slot need schema_version 2")
        if self.schema_version < 3 and (self.rollout or self.rollback_to):
            raise ValueError("rollout and rollback_to need schema_version 3")
        return self

    @classmethod
    def of(
        cls, generation: int, slots: dict[str, SlotTraffic], shadow: ShadowTraffic | None = None
    ) -> Self:
        """In the lowest version that can say it, which older gateways read too.

        Raises ValueError if it would be no valid traffic.
        """
        return cls(
            schema_version=_version_for(slots), generation=generation, slots=slots, shadow=shadow
        )

    def for_rollouts(
        self, rollout: RolloutLease | None, rollback_to: RollbackSlot | None
    ) -> "Traffic":
        """The same traffic with these, in the lowest version that can say it."""
        return Traffic(
            schema_version=3 if rollout or rollback_to else _version_for(self.slots),
            generation=self.generation,
            slots=self.slots,
            shadow=self.shadow,
            rollout=rollout,
            rollback_to=rollback_to,
        )

    def same_for_gateways(self, other: "Traffic") -> bool:
        """Whether the two differ at most in what gateways ignore."""
        return self.for_rollouts(None, None) == other.for_rollouts(None, None)

    def text(self) -> str:
        """As the file has it, without what an older gateway would not know and needs not."""
        unset = {key for key in ("rollout", "rollback_to") if getattr(self, key) is None}
        return self.model_dump_json(indent=2, exclude=unset) + "\n"

    @property
    def weights(self) -> dict[str, int]:
        return {name: slot.weight for name, slot in self.slots.items()}


def _version_for(slots: Mapping[str, SlotTraffic]) -> Literal[1, 2]:
    return 1 if all(isinstance(slot.triton, str) for slot in slots.values()) else 2


def check_name(directory: Path) -> None:
    """Raises SlotInvalid if a slot in this directory could get no traffic for its name."""
    if not re.fullmatch(_NAME, directory.name):
        raise SlotInvalid(
            f"{quoted(ascii(directory.name))} is no name for a slot: name the directory by at most "
            "63 of a-z, 0-9, - and _, a letter or digit first."
        )


def load(path: Path) -> Traffic:
    """Raises TrafficInvalid, saying where and what."""
    try:
        return parse(str(path), path.read_bytes())
    except OSError as error:
        raise TrafficInvalid(
            f"{path} can't be read: {error.strerror}. Write it, or name another with GUARD_TRAFFIC."
        ) from None


def save(traffic: Traffic, path: Path) -> None:
    """Replaces the file: a reader finds the old or the new one, whole."""
    files.replace_file(path, traffic.text().encode())


def changes(path: Path) -> AsyncIterator[Traffic | TrafficInvalid]:
    """The file's content, or what is wrong with it: first as it stands, then after each change."""
    return files.changes(path, load, TrafficInvalid, _POLL_S)


def parse(name: str, text: bytes) -> Traffic:
    """`name`: of what holds the text, for people. Raises TrafficInvalid."""
    try:
        return Traffic.model_validate_json(text)
    except ValidationError as error:
        raise TrafficInvalid(f"{name}: {first_problem(error)}. Correct it.") from None
