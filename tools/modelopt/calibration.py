"""Writes DIR/train.jsonl for the tiny guard, like the calibrate stage of a GPU build.

DIR/golden.jsonl has every fifth golden row with its verdict, a row each: see divergence.py.
"""

import json
import sys
from pathlib import Path

from guard_build.checkpoint import read_packaging
from guard_build.tensorrt_llm import CALIBRATION_SET
from guard_build.tensorrt_llm.calibrate import calibration_rows
from guard_eval.datasets import GOLDEN_SET, load_examples

_TINY_GUARD = Path(__file__).parents[2] / "checkpoints" / "tiny-guard"
_EVERY = 5


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    packaging = read_packaging(_TINY_GUARD, "tiny-guard")
    calibration_rows(load_examples(CALIBRATION_SET), packaging).write(directory)
    golden = load_examples(GOLDEN_SET)[::_EVERY]
    texts = ("".join(calibration_rows([example], packaging).texts) for example in golden)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (directory / "golden.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
