"""Progress of a build."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`: a stage in a few words, and amounts without a unit."""
