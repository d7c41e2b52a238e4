"""Paths that quantize.py takes for something else, because of a word in them."""

from pathlib import Path

from guard_build.errors import BuildFailed

_DATA_SETS = ("cnn_dailymail", "scienceqa", "science_qa", "pileval")
_MODELS = ("mpt", "vila", "llava")


def check_calibration(directory: Path) -> None:
    """Raises BuildFailed if quantize.py would take `directory` for the name of a data set."""
    for word in _DATA_SETS:
        if word in str(directory).lower():
            raise BuildFailed(
                f"{directory} has {word!r} in its name, which quantize.py takes for a data set of "
                "that name. Choose another directory with --work."
            )


def check_checkpoint(directory: Path) -> None:
    """Raises BuildFailed if quantize.py would load `directory` as another kind of model."""
    for word in _MODELS:
        if word in str(directory).lower():
            raise BuildFailed(
                f"{directory} has {word!r} in its name, which quantize.py takes for a model of "
                "that kind. Copy the checkpoint to a directory without that word, and name it "
                "with --checkpoint."
            )
