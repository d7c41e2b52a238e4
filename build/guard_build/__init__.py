"""Checkpoint -> engine -> slot: what `guard build` does. Nothing here is needed to serve."""

from guard_build.errors import BuildFailed
from guard_build.progress import Progress, bars
from guard_build.slot import build_slot

__all__ = ["BuildFailed", "Progress", "bars", "build_slot"]
