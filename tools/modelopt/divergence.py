"""Measures what ModelOpt's quantization changes in the tiny guard's verdicts, by calibration rows.

    guard-venv/bin/python tools/modelopt/calibration.py DIR       # train.jsonl and golden.jsonl
    modelopt-venv/bin/python tools/modelopt/divergence.py DIR     # on a CPU; docs/gpu.md

Calibrated twice: on the rows as they are, and on the same text with a row for each conversation,
which quantize.py pads to the longest. Prints the mean divergence (KL, nats a token) from float32
over the verdicts' tokens of the golden rows, and how many rows keep each token's argmax.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from check import FORMATS, TINY_GUARD, batches, say, tokenizer
from transformers import Qwen3ForCausalLM

_CONVERSATION = re.compile(r"(?=<\|im_start\|>user\n# )")
_VERDICT = "Safety:"


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def model() -> Any:
    return Qwen3ForCausalLM.from_pretrained(TINY_GUARD, dtype=torch.float32).eval()


def verdicts(asked: Any, golden: list[str]) -> list[Any]:
    """The logits that decide the tokens of each golden row's verdict."""
    found = []
    with torch.inference_mode():
        for text in golden:
            ids = tokenizer()(text, return_tensors="pt")["input_ids"]
            read = len(tokenizer()(text[: text.rindex(_VERDICT)])["input_ids"])
            found.append(asked(ids).logits[0, read - 1 : -1].log_softmax(-1))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    golden, packed = texts(directory / "golden.jsonl"), texts(directory / "train.jsonl")
    apart = [text for text in _CONVERSATION.split("".join(packed)) if text]
    reference = verdicts(model(), golden)
    say(
        "| rows | padding | format | mean KL | rows that keep every argmax |\n|---|--:|---|--:|--:|"
    )
    for name, rows in (("one conversation each", apart), ("joined and cut", packed)):
        data, padding = batches(rows)
        for kind, config in FORMATS.items():

            def loop(calibrated: Any, data: list[Any] = data) -> None:
                with torch.no_grad():
                    for batch in data:
                        calibrated(batch)

            found = verdicts(mtq.quantize(model(), config, loop), golden)
            pairs = list(zip(reference, found, strict=True))
            apart_by = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in pairs]).mean().item()
            same = sum(bool((a.argmax(-1) == b.argmax(-1)).all()) for a, b in pairs)
            say(f"| {name} | {padding:.1%} | {kind} | {apart_by:.5f} | {same} of {len(golden)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
