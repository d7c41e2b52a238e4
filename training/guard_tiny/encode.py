"""Encodes examples as ids, and ids as padded batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from guard_core.slot.slot_files import load_prompt
from guard_core.verdict.grammar import NO_CATEGORY, REFUSALS
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES
from guard_tiny.data.examples import Example
from guard_tiny.sentence_vectors import Floats
from guard_tiny.tokenizer import IM_END

IGNORED = -100  # the target that cross_entropy ignores
ROWS, TOKENS = 64, 10_240  # the most rows and tokens of a batch, including padding


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as ids, and the sentence vector of its judged text if it has one."""

    prompt: list[int]
    verdict: list[int]
    """Includes the end token."""
    trained: list[bool]
    """For each id of the verdict, whether it counts in the loss."""
    vector: Floats | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.verdict)


class Encoder:
    """Encodes examples with the gateway's own prompt code."""

    def __init__(self, directory: Path) -> None:
        """Reads the template and tokenizer of the checkpoint in `directory`."""
        self.prompt = load_prompt(directory)
        self.end = self.prompt.added_tokens[IM_END]
        # For each choice of the verdict, its labels' first tokens. All other tokens are form.
        self.choices = [
            [self.prompt.encode(f" {label}")[0] for label in labels]
            for labels in (SEVERITIES, (NO_CATEGORY, *CATEGORIES), REFUSALS)
        ]

    def __call__(self, example: Example, vector: Floats | None = None) -> Encoded:
        """Encodes one example."""
        verdict: list[int] = []
        trained: list[bool] = []
        for text, is_trained in example.label.pieces():
            ids = self.prompt.encode(text)
            verdict += ids
            trained += [is_trained] * len(ids)
        if verdict != self.prompt.encode(example.label.text()):
            raise ValueError(
                f"the pieces of {example.label.text()!r} don't tokenize like the whole"
            )
        prompt = self.prompt.ids(example.messages)
        return Encoded(prompt, [*verdict, self.end], [*trained, True], vector)


def cutter(tokenizer: Tokenizer) -> Callable[[str, int], str]:
    """A function `cut(text, limit)` that cuts text to `limit` tokens."""

    def cut(text: str, limit: int) -> str:
        if len(text.encode()) <= limit:  # no token is shorter than a byte
            return text
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= limit else text[: offsets[limit][0]] or text[:1]

    return cut


def batches(encoded: Sequence[Encoded], rng: random.Random) -> Iterator[list[Encoded]]:
    """One pass in random order; the rows of a batch have similar lengths."""
    order = list(encoded)
    rng.shuffle(order)
    chunk = ROWS * 50
    for start in range(0, len(order), chunk):
        some = list(group_by_length(order[start : start + chunk]))
        rng.shuffle(some)
        yield from some


def group_by_length(encoded: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Batches in order of length, each within ROWS and TOKENS."""
    batch: list[Encoded] = []
    for example in sorted(encoded, key=len):
        if batch and (len(batch) == ROWS or len(example) * (len(batch) + 1) > TOKENS):
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def collate(batch: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and the ids to predict, one step ahead: each [rows, tokens].

    Padding is on the right, where causal attention needs no mask for it.
    """
    width = max(map(len, batch)) - 1
    inputs = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORED)
    for row, example in enumerate(batch):
        ids = example.prompt + example.verdict
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        pairs = zip(example.verdict, example.trained, strict=True)
        for column, (target, is_trained) in enumerate(pairs, len(example.prompt) - 1):
            if is_trained:
                targets[row, column] = target
    return inputs, targets
