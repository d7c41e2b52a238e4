"""Turns rows into labelled conversations of both modes; weak labels replace missing ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from guard_core.conversation import Message, Role
from guard_tiny.data import weak_labels
from guard_tiny.data.labels import Label
from guard_tiny.data.refusals import looks_like_refusal
from guard_tiny.data.training_rows import Row, one_category

# A guessed category below this probability is part of the input but not of the loss.
CATEGORY_TRUST = 0.45
_SEVERITY = {"safe": "Safe", "unsafe": "Unsafe", "controversial": "Controversial"}


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, its verdict, and whether the data called it unsafe (None: unlabelled)."""

    messages: tuple[Message, ...]
    label: Label
    unsafe: bool | None
    held_out: bool = False
    language: str = "en"


def _disputed(
    texts: Sequence[str], rows: Sequence[Row], labels: Sequence[str], seed: int
) -> list[bool]:
    indices = [i for i, label in enumerate(labels) if label != "controversial"]
    disputed = weak_labels.disputed(
        [texts[i] for i in indices],
        [rows[i].group for i in indices],
        [labels[i] == "unsafe" for i in indices],
        [not rows[i].held_out for i in indices],
        seed,
    )
    flags = [False] * len(labels)
    for i, flag in zip(indices, disputed, strict=True):
        flags[i] = bool(flag)
    return flags


def _label(
    severity: str, category: str | None, guess: tuple[str, float] | None, refusal: bool | None
) -> Label:
    if severity == "Safe":
        return Label(severity, None, refusal)
    if category is not None:
        return Label(severity, category, refusal)
    if guess is None:
        raise ValueError(f"{severity} row has neither a category nor a guess")
    doubtful = frozenset() if guess[1] >= CATEGORY_TRUST else frozenset({"category"})
    return Label(severity, guess[0], refusal, doubtful)


def _refusal(row: Row) -> bool:
    if row.refusal is not None:
        return row.refusal == "yes"
    return looks_like_refusal(row.response, row.response_label)


def _of_mode(rows: Sequence[Row], response_mode: bool, seed: int) -> list[Example]:
    texts = [f"{row.prompt}\n{row.response}" if response_mode else row.prompt for row in rows]
    given = [(row.response_label if response_mode else row.prompt_label) or "" for row in rows]
    disputed = _disputed(texts, rows, given, seed)
    severities = [
        "Controversial" if flag else _SEVERITY[label]
        for flag, label in zip(disputed, given, strict=True)
    ]
    categories = one_category(rows)
    known = [i for i, row in enumerate(rows) if categories[i] is not None and not row.held_out]
    unknown = [i for i, s in enumerate(severities) if s != "Safe" and categories[i] is None]
    guesses = weak_labels.guess_categories(
        [texts[i] for i in known],
        [categories[i] or "" for i in known],
        [texts[i] for i in unknown],
        seed,
    )
    guessed = dict(zip(unknown, guesses, strict=True))
    examples = []
    for i, row in enumerate(rows):
        refusal = _refusal(row) if response_mode else None
        label = _label(severities[i], categories[i], guessed.get(i), refusal)
        messages = [Message(Role.USER, row.prompt)] if row.prompt else []
        if response_mode:
            messages.append(Message(Role.ASSISTANT, row.response))
        unsafe = given[i] == "unsafe"
        examples.append(Example(tuple(messages), label, unsafe, row.held_out, row.lang))
    return examples


def _only_refusal(row: Row) -> Example:
    """An example of a row that labels the refusal but no severity."""
    label = Label("Safe", None, row.refusal == "yes", frozenset({"severity", "category"}))
    messages = (Message(Role.USER, row.prompt), Message(Role.ASSISTANT, row.response))
    return Example(messages, label, None, row.held_out, row.lang)


def label_rows(rows: Sequence[Row], seed: int) -> list[Example]:
    """One example per labelled prompt and per labelled response."""
    prompts = [row for row in rows if row.prompt and row.prompt_label]
    responses = [row for row in rows if row.prompt and row.response and row.response_label]
    refusals = [
        row
        for row in rows
        if row.prompt and row.response and row.refusal and not row.response_label
    ]
    return [
        *_of_mode(prompts, False, seed),
        *_of_mode(responses, True, seed),
        *(_only_refusal(row) for row in refusals),
    ]
