"""What an operator may choose about a rollout, and the names of its steps."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from guard_control.errors import InvalidOperation
from guard_control.fleets.fleet_slot import READY_S
from guard_core.errors import SlotInvalid, quoted
from guard_core.slot import traffic


class Step(StrEnum):
    """By their names in the protobuf contract."""

    CHECK = "STEP_CHECK"
    START = "STEP_START"
    WARM_UP = "STEP_WARM_UP"
    VERIFY = "STEP_VERIFY"
    SHADOW = "STEP_SHADOW"
    SHIFT = "STEP_SHIFT"
    DRAIN = "STEP_DRAIN"
    STOP = "STEP_STOP"
    DONE = "STEP_DONE"
    ROLLBACK = "STEP_ROLLBACK"


@dataclass(frozen=True, slots=True)
class Shift:
    """How traffic is shifted."""

    steps: Sequence[int] = (5, 25, 50, 100)  # percent
    pause_s: float = 10.0
    max_factor: float = 2.0  # of the active slot's error rate and p99
    keep_old: bool = False

    def check(self) -> None:
        """Raises InvalidOperation."""
        rising = all(a < b for a, b in zip((0, *self.steps), self.steps, strict=False))
        if not self.steps or not rising or self.steps[-1] != 100:
            raise InvalidOperation("Give steps in percent that rise and end with 100.")
        if not self.max_factor >= 1:  # nor NaN, which every gate would pass
            raise InvalidOperation("Give a factor of at least 1.")


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is deployed, and how carefully."""

    directory: Path
    data: Path | None = None
    ignored_keys: Sequence[str] = ()  # unknown ones that rows of the data may have
    min_agreement: float | None = None
    verify_in_flight: int = 2
    shadow_share: float = 0.0
    shadow_s: float = 10.0
    ready_s: float = READY_S
    shift: Shift = Shift()
    prepare_only: bool = False

    def check(self) -> None:
        """Raises InvalidOperation."""
        self.shift.check()
        _check_directory(self.directory)
        if not 0 <= self.shadow_share <= 1 or not 0 <= (self.min_agreement or 0) <= 1:
            raise InvalidOperation("Give a share and an agreement between 0 and 1.")


def slot_below(roots: Sequence[Path], directory: str) -> Path:
    """The slot's directory without symbolic links. Raises InvalidOperation if no root has it.

    Triton runs what is in a slot: whoever may deploy chooses among what the operator put there.
    """
    try:
        if not Path(directory).is_absolute():
            raise InvalidOperation("Give the absolute path of the slot's directory.")
        found = Path(directory).resolve()
        below = any(root.resolve() in found.parents for root in roots)
    except (OSError, ValueError, RuntimeError) as error:  # links in a circle, or no path at all
        reason = quoted(str(error))
        raise InvalidOperation(f"The slot's directory can't be read: {reason}.") from None
    if not below:
        known = " or ".join(str(root) for root in roots)
        raise InvalidOperation(
            f"{quoted(ascii(str(found)))} is not below {known}: move the slot there, or start "
            "`guard serve` with --deploy-root."
        )
    return found


def _check_directory(directory: Path) -> None:
    """A directory that is not there is the check step's to report. Raises InvalidOperation."""
    try:
        traffic.check_name(directory)
        mode = directory.stat().st_mode
    except FileNotFoundError:
        return
    except (SlotInvalid, ValueError) as error:
        raise InvalidOperation(str(error)) from None
    except OSError as error:
        raise InvalidOperation(f"The slot's directory can't be read: {error.strerror}.") from None
    if not stat.S_ISDIR(mode):
        raise InvalidOperation(f"{directory} is no directory: give that of a built slot.")
