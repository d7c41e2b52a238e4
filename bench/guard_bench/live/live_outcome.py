"""One row of the table of `guard bench live`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveOutcome:
    """A figure beside what is wanted of it."""

    case: str
    figure: str
    wanted: str
    found: str
    passed: bool | None = None
    """None: nothing is wanted, it is only told."""
