"""How one metric is described: its name, kind, meaning and labels."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Joined(StrEnum):
    """What one figure of several gateway processes is."""

    SUM = "sum"
    LEAST = "least"
    MOST = "most"


@dataclass(frozen=True, slots=True)
class Label:
    """`values`: all that there are; None: as many as the slots that run, or the server, have."""

    name: str
    bound: str
    values: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. `name` is without the `_total` that counters have where they are served."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[Label, ...] = ()
    joined: Joined = Joined.SUM

    @property
    def served(self) -> str:
        """The name in PromQL."""
        return f"{self.name}_total" if self.kind == "counter" else self.name
