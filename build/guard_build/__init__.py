"""`guard build`: checkpoint -> engine -> slot. Serving needs nothing of this package."""

from guard_build.errors import BuildFailed
from guard_build.hub import Checkpoint, find_checkpoint, local_checkpoint
from guard_build.openvino.slot import build_slot
from guard_build.progress import Progress
from guard_build.slot_directory import check_slot
from guard_engine import WeightFormat

__all__ = [
    "BuildFailed",
    "Checkpoint",
    "Progress",
    "WeightFormat",
    "build_slot",
    "check_slot",
    "find_checkpoint",
    "local_checkpoint",
]
