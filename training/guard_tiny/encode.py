"""Examples as ids, and ids as padded batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from guard_core.slot.files import load_prompt
from guard_core.verdict.grammar import NO_CATEGORY, REFUSALS
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES
from guard_tiny.data.examples import Example
from guard_tiny.sentence_vectors import Floats
from guard_tiny.tokenizer import IM_END

IGNORED = -100  # what cross_entropy leaves out
ROWS, TOKENS = 64, 10_240  # a batch has at most so many of both, padding counted


@dataclass(frozen=True, slots=True)
class Encoded:
    """Prompt ids, verdict ids with the end token, which verdict ids are trained, and the vector
    of the judged text where one was asked for."""

    prompt: list[int]
    verdict: list[int]
    trained: list[bool]
    meaning: Floats | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.verdict)


class Encoder:
    """Examples to ids with the code that serves: guard_server's own prompt."""

    def __init__(self, directory: Path) -> None:
        """Reads the template and tokenizer of the checkpoint in `directory`."""
        self.prompt = load_prompt(directory)
        self.end = self.prompt.added_tokens[IM_END]
        # The tokens that each label begins with, by what is chosen: all else is form.
        self.choices = [
            [self.prompt.encode(f" {label}")[0] for label in labels]
            for labels in (SEVERITIES, (NO_CATEGORY, *CATEGORIES), REFUSALS)
        ]

    def __call__(self, example: Example, meaning: Floats | None = None) -> Encoded:
        """The ids of one example."""
        verdict: list[int] = []
        trained: list[bool] = []
        for text, is_trained in example.label.pieces():
            ids = self.prompt.encode(text)
            verdict += ids
            trained += [is_trained] * len(ids)
        if verdict != self.prompt.encode(example.label.text()):
            raise ValueError(f"a verdict's pieces tokenize otherwise than {example.label.text()!r}")
        prompt = self.prompt.ids(example.messages)
        return Encoded(prompt, [*verdict, self.end], [*trained, True], meaning)


def cutter(tokenizer: Tokenizer) -> Callable[[str, int], str]:
    """A function that cuts text to so many tokens."""

    def cut(text: str, limit: int) -> str:
        if len(text.encode()) <= limit:  # no token is shorter than a byte
            return text
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= limit else text[: offsets[limit][0]] or text[:1]

    return cut


def batches(encoded: Sequence[Encoded], rng: random.Random) -> Iterator[list[Encoded]]:
    """One pass in a drawn order; rows of a batch have similar lengths."""
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
    for one in sorted(encoded, key=len):
        if batch and (len(batch) == ROWS or len(one) * (len(batch) + 1) > TOKENS):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def collate(batch: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and, one step ahead, the ids to predict. Padding is on the right, where causal
    attention needs no mask for it."""
    width = max(map(len, batch)) - 1
    inputs = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORED)
    for row, one in enumerate(batch):
        ids = one.prompt + one.verdict
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        for at, (target, is_trained) in enumerate(zip(one.verdict, one.trained, strict=True)):
            if is_trained:
                targets[row, len(one.prompt) - 1 + at] = target
    return inputs, targets
