"""Runs ModelOpt as quantize.py does, on a small random Qwen3 with our calibration data.

    guard-venv/bin/python tools/modelopt/calibration.py DIR       # writes DIR/train.jsonl
    modelopt-venv/bin/python tools/modelopt/check.py DIR          # on a CPU; docs/gpu.md

Checks that `datasets` reads the data, and that every linear layer of every block gets calibrated
quantizers. It has its own environment (requirements.txt), which nothing else needs.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TINY_GUARD = Path(__file__).parents[2] / "checkpoints" / "tiny-guard"
_BATCH, _TOKENS = 8, 1024  # as in guard_build.tensorrt_llm.commands
FORMATS = {
    "fp8": {
        **mtq.FP8_DEFAULT_CFG,
        "quant_cfg": mtq.FP8_DEFAULT_CFG["quant_cfg"] | mtq.FP8_KV_CFG["quant_cfg"],
    },
    "int8_sq": mtq.INT8_SMOOTHQUANT_CFG,
}


def random_model(vocabulary: int) -> Any:
    """A random Qwen3. As in the 4B model, heads x head size exceeds the width."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=160,
        intermediate_size=416,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def tokenizer() -> Any:
    """The tiny guard's, which pads on the left as quantize.py's does."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(TINY_GUARD / "tokenizer.json"),
        pad_token="<|endoftext|>",  # noqa: S106 - no password
        padding_side="left",
    )


def batches(rows: Sequence[str]) -> tuple[list[Any], float]:
    """The rows' ids in batches like those of quantize.py, and the share of padding in them."""
    encoded = tokenizer()(
        list(rows), return_tensors="pt", padding=True, truncation=True, max_length=_TOKENS
    )
    ids, read = encoded["input_ids"], encoded["attention_mask"].float().mean().item()
    return list(ids.split(_BATCH)), 1 - read


def unquantized(model: Any) -> Iterator[str]:
    """Yields each quantizer of the blocks' linear layers that is missing or saw no values."""
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear) or ".layers." not in f".{name}":
            continue
        for side in ("weight_quantizer", "input_quantizer"):
            quantizer = getattr(layer, side, None)
            amax = getattr(quantizer, "amax", None)
            if quantizer is None or not quantizer.is_enabled:
                yield f"{name}.{side} is missing"
            elif amax is None or not bool(torch.isfinite(amax).all() and (amax > 0).any()):
                yield f"{name}.{side} saw no values"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calibration", type=Path)
    directory = parser.parse_args().calibration
    rows = load_dataset(str(directory), data_files="train.jsonl", split="train")["text"]
    data, padding = batches(rows)
    vocabulary = 1 + max(int(batch.max()) for batch in data)
    names = ("nvidia-modelopt", "torch", "transformers", "datasets")
    say(", ".join(f"{name} {version(name)}" for name in names))
    say(f"{len(rows)} rows of {data[0].shape[1]} tokens, {padding:.1%} of them padding")
    failed = False
    for name, config in FORMATS.items():
        model = random_model(vocabulary)
        linear = sum(isinstance(layer, torch.nn.Linear) for layer in model.model.layers.modules())

        def loop(calibrated: Any) -> None:
            with torch.no_grad():
                for batch in data:
                    calibrated(batch)

        model = mtq.quantize(model, config, loop)
        missing = list(unquantized(model))
        failed |= bool(missing)
        done = linear - len({line.partition(" ")[0].rpartition(".")[0] for line in missing})
        say(f"{name}: {done} of {linear} linear layers quantized")
        for line in missing:
            say(f"  {line}")
    return int(failed)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
