"""The training loop: one process on a CPU; the loss counts verdict tokens only."""

import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import Qwen3ForCausalLM

from guard_tiny.encode import IGNORED, ROWS, Encoded, batches, collate, group_by_length
from guard_tiny.export import save_weights
from guard_tiny.sentence_vectors import WIDTH

CHECK_EVERY = 300
LOG_EVERY = 25
# The summed loss is divided by this nominal count, so that examples weigh the same in any batch.
NOMINAL_TOKENS = ROWS * 9


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of one training phase."""

    passes: float
    learning_rate: float
    seed: int
    selects: bool
    """Whether to keep the weights with the lowest held-out loss; otherwise the last ones."""
    unsafe_margin: float = 0.0
    """How much the loss lowers the logits of Safe and Controversial. The model learns to make up
    for it, so that it writes Unsafe less often (logit adjustment, arXiv:2007.07314)."""
    form_margin: float = 0.0
    """How much the loss raises the logits that the grammar forbids. The model learns to make up for
    it, so that it leaves the grammar less often."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one training phase."""

    steps: int
    passes: float
    seconds: int
    parameters: int
    kept_step: int
    held_out_loss: float
    """Mean loss per token, with the recipe's margins."""


def _rate(done: float) -> float:
    """Factor of the learning rate: warm-up over the first 4% of the steps, then a cosine to 2%."""
    if done < 0.04:
        return 0.01 + done / 0.04
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96))


class _Loss:
    """The loss of a batch: of its verdicts, and of the predicted sentence vectors."""

    def __init__(
        self, model: Qwen3ForCausalLM, choices: Sequence[Sequence[int]], recipe: Recipe
    ) -> None:
        self._model = model
        size = model.config.vocab_size
        # Row 0 is for form, where only the target is allowed. Each choice of the verdict has a row.
        self._offsets = torch.full((1 + len(choices), size), recipe.form_margin)
        self._choice = torch.zeros(size, dtype=torch.long)
        for row, tokens in enumerate(choices, 1):
            self._offsets[row, list(tokens)] = 0.0
            self._choice[list(tokens)] = row
        *milder, _ = choices[0]
        self._offsets[1, milder] -= recipe.unsafe_margin
        # Only training uses this layer; it is not part of the checkpoint.
        self.vector_head = torch.nn.Linear(model.config.hidden_size, WIDTH)

    def __call__(self, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int, torch.Tensor]:
        """The summed loss of the verdicts, their tokens, and the summed distance of the vectors."""
        inputs, targets = collate(batch)
        hidden = self._model.model(inputs, use_cache=False).last_hidden_state
        # The head runs only at verdict tokens, a twentieth of the positions.
        kept = targets != IGNORED
        expected = targets[kept]
        logits = self._model.lm_head(hidden[kept]) + self._margins(expected)
        verdicts = cross_entropy(logits, expected, reduction="sum")
        return verdicts, int(kept.sum()), self._distance(batch, hidden)

    def _margins(self, expected: torch.Tensor) -> torch.Tensor:
        """What to add to the logits of each target: [targets, vocabulary]."""
        choice = self._choice[expected]
        offsets = self._offsets[choice]
        form = choice == 0
        offsets[form, expected[form]] = 0.0
        return offsets

    def _distance(self, batch: Sequence[Encoded], hidden: torch.Tensor) -> torch.Tensor:
        """Summed cosine distance between predicted and given sentence vectors."""
        rows = [row for row, example in enumerate(batch) if example.vector is not None]
        vectors = [example.vector for example in batch if example.vector is not None]
        if not rows:
            return torch.zeros(())
        predicted = self.vector_head(hidden[rows, [len(batch[row].prompt) - 1 for row in rows]])
        return (1 - cosine_similarity(predicted, torch.from_numpy(np.stack(vectors)))).sum()


def _held_out_loss(model: Qwen3ForCausalLM, loss_of: _Loss, encoded: Sequence[Encoded]) -> float:
    model.train(False)
    total, count = 0.0, 0
    for batch in group_by_length(encoded):
        with torch.inference_mode():
            loss, tokens, _ = loss_of(batch)
        total, count = total + loss.item(), count + tokens
    model.train()
    return total / count


def _optimizer(parameters: Sequence[torch.nn.Parameter], rate: float) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    norms = [p for p in parameters if p.ndim == 1]
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
    model: Qwen3ForCausalLM,
    directory: Path,
    encoded: Sequence[Encoded],
    held_out: Sequence[Encoded],
    recipe: Recipe,
    choices: Sequence[Sequence[int]],
    log: Callable[[str], None],
) -> Run:
    """Trains `model` and saves the weights that the recipe selects in `directory`.

    `choices`: for each choice of the verdict, the first tokens of its labels; the severities come
    first, from Safe to Unsafe.
    """
    model.train(True)
    loss_of = _Loss(model, choices, recipe)
    trained = [*model.parameters(), *loss_of.vector_head.parameters()]
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = _optimizer(trained, recipe.learning_rate)
    drawn = _all_batches(encoded, recipe.passes, recipe.seed)
    log(f"{parameters:,} parameters, {len(encoded):,} examples, {len(drawn):,} steps")
    kept, kept_step, steps, losses, started = math.inf, 0, 0, 0.0, time.monotonic()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("training", total=len(drawn))
        for step, batch in enumerate(drawn):
            progressed = step / len(drawn)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(progressed)
            loss, tokens, distance = loss_of(batch)
            torch.autograd.backward(loss / NOMINAL_TOKENS + distance / ROWS)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses += loss.item() / tokens
            steps = step + 1
            progress.advance(task)
            if steps % LOG_EVERY == 0:
                log(f"{steps}/{len(drawn)} loss {losses / LOG_EVERY:.4f}, {progressed:.1%} done")
                losses = 0.0
            last = steps == len(drawn)
            if steps % CHECK_EVERY == 0 or last:
                checked = _held_out_loss(model, loss_of, held_out)
                log(f"{steps}/{len(drawn)} held-out loss {checked:.4f}")
                if (checked < kept) if recipe.selects else last:
                    kept, kept_step = checked, steps
                    save_weights(directory, model)
    seconds = round(time.monotonic() - started)
    return Run(steps, recipe.passes, seconds, parameters, kept_step, round(kept, 4))
