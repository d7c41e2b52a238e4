"""The training loop: one process, a CPU, verdict tokens only."""

import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn.functional import cross_entropy
from transformers import Qwen3ForCausalLM

from guard_build.tiny.checkpoint import load_model, new_model, save_weights
from guard_build.tiny.encode import IGNORED, ROWS, Encoded, batches, collate, group_by_length

RECORD = "training.json"  # what was run, beside the weights
CHECK_EVERY = 300
LOG_EVERY = 25
# The loss is a sum over this nominal count, so each example weighs the same in a short batch.
NOMINAL_TOKENS = ROWS * 9


@dataclass(frozen=True, slots=True)
class Recipe:
    """What can be turned from the command line."""

    passes: float = 2.0
    minutes: float = 0.0  # where set, ends earlier: the rate then falls with the clock
    learning_rate: float = 2e-3
    further: bool = False  # from the stored weights instead of fresh ones
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Run:
    """How the training went."""

    steps: int
    passes: float
    seconds: int
    parameters: int
    best_step: int
    held_out_loss: float


def _rate(done: float) -> float:
    """Warm-up over 4% of the way, then a cosine down to 2%."""
    if done < 0.04:
        return 0.01 + done / 0.04
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96))


def _loss(model: Qwen3ForCausalLM, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
    inputs, targets = collate(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(inputs, use_cache=False).last_hidden_state
        # The head only where a verdict is written: a twentieth of the positions.
        kept = targets != IGNORED
        logits = model.lm_head(hidden[kept]).float()
    return cross_entropy(logits, targets[kept], reduction="sum"), int(kept.sum())


def _held_out_loss(model: Qwen3ForCausalLM, encoded: Sequence[Encoded]) -> float:
    model.train(False)
    total, count = 0.0, 0
    for batch in group_by_length(encoded):
        with torch.inference_mode():
            loss, tokens = _loss(model, batch)
        total, count = total + loss.item(), count + tokens
    model.train()
    return total / count


def _optimizer(model: Qwen3ForCausalLM, rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def _all_batches(encoded: Sequence[Encoded], passes: float, seed: int) -> list[list[Encoded]]:
    rng = random.Random(seed)  # noqa: S311  not a secret
    drawn: list[list[Encoded]] = []
    while passes > 0:
        one_pass = list(batches(encoded, rng))
        drawn += one_pass[: math.ceil(len(one_pass) * min(1.0, passes))]
        passes -= 1.0
    return drawn


def train(
    directory: Path,
    encoded: Sequence[Encoded],
    held_out: Sequence[Encoded],
    recipe: Recipe,
    log: Callable[[str], None],
) -> Run:
    """Train and keep the weights with the lowest held-out loss in `directory`."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    model = load_model(directory) if recipe.further else new_model(directory)
    model.train(True)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = _optimizer(model, recipe.learning_rate)
    drawn = _all_batches(encoded, recipe.passes, recipe.seed)
    log(f"{parameters:,} parameters, {len(encoded):,} examples, {len(drawn):,} steps")
    best, best_step, steps, losses, started = math.inf, 0, 0, 0.0, time.monotonic()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("training", total=len(drawn))
        for step, batch in enumerate(drawn):
            way = step / len(drawn)
            if recipe.minutes:
                way = max(way, (time.monotonic() - started) / (60 * recipe.minutes))
            last = way >= 1 or step + 1 == len(drawn)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(min(way, 1.0))
            loss, tokens = _loss(model, batch)
            torch.autograd.backward(loss / NOMINAL_TOKENS)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses += loss.item() / tokens
            steps = step + 1
            progress.advance(task)
            if steps % LOG_EVERY == 0:
                log(f"{steps}/{len(drawn)} loss {losses / LOG_EVERY:.4f}, {way:.1%} of the way")
                losses = 0.0
            if steps % CHECK_EVERY == 0 or last:
                checked = _held_out_loss(model, held_out)
                log(f"{steps}/{len(drawn)} held-out loss {checked:.4f}")
                if checked < best:
                    best, best_step = checked, steps
                    save_weights(directory, model)
            if last:
                break
    passes = round(recipe.passes * steps / len(drawn), 2)
    seconds = round(time.monotonic() - started)
    return Run(steps, passes, seconds, parameters, best_step, round(best, 4))
