"""Writes DIR/train.jsonl for the tiny guard, like the calibrate stage of a GPU build."""

import sys
from pathlib import Path

from guard_build.checkpoint import read_packaging
from guard_build.tensorrt_llm import CALIBRATION_SET
from guard_build.tensorrt_llm.calibrate import calibration_rows
from guard_eval.datasets import load_examples

_TINY_GUARD = Path(__file__).parents[2] / "checkpoints" / "tiny-guard"


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    packaging = read_packaging(_TINY_GUARD, "tiny-guard")
    calibration_rows(load_examples(CALIBRATION_SET), packaging).write(directory)


if __name__ == "__main__":
    main()
