"""Mixes the examples of one pass: rows, repeats of rare ones, our sentences, long messages."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from guard_core.conversation import Message, Role
from guard_core.verdict.taxonomy import CATEGORIES
from guard_tiny.data.examples import Example
from guard_tiny.data.labels import Label
from guard_tiny.data.machine_text import machine_prompts
from guard_tiny.data.own_sentences import (
    SYSTEM_MESSAGES,
    OwnPrompt,
    benign_answer,
    complying_reply,
    contrast_prompts,
    everyday_prompts,
)
from guard_tiny.data.refusals import own_refusals
from guard_tiny.data.word_swaps import Vocabulary, word_swap_prompts

RARE_FLOOR = 900  # prompts per category; a category with fewer is repeated ...
RARE_REPEATS = 5  # ... at most so many times
HARMLESS_REPEATS = 4  # most repeats of a language's safe prompts, to match its harmful ones
OWN_ANSWERS, OWN_REFUSALS = 3000, 2400
BALANCED_CATEGORY, BALANCED_SAFE, BALANCED_REPLIES = 1300, 16_000, 6_000
BALANCED_CONTROVERSIAL = 2000  # with fewer, a small model never writes it
SHORT, LONG = 256, 640  # messages are cut to so many tokens
LONG_SHARE = 0.05
JOINED, BALANCED_JOINED = 500, 1500  # examples that join several messages
JOINED_TOKENS = (300, 2200)  # range of their length
EARLIER_TURNS_SHARE = 0.06
SYSTEM_SHARE = 0.02

Cut = Callable[[str, int], str]


def _rare_repeats(examples: Sequence[Example]) -> list[Example]:
    of_category: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.label.category and example.label.refusal is None:
            of_category[example.label.category].append(example)
    repeated: list[Example] = []
    for some in of_category.values():
        repeats = min(RARE_REPEATS, RARE_FLOOR // len(some))
        repeated += some * max(0, repeats - 1)
    return repeated


def _harmless_repeats(examples: Sequence[Example]) -> list[Example]:
    """Repeats safe prompts so that the language predicts nothing: most Chinese rows are harmful."""
    safe: dict[str, list[Example]] = defaultdict(list)
    harmful: Counter[str] = Counter()
    for example in examples:
        if example.label.refusal is None and example.label.severity == "Safe":
            safe[example.language].append(example)
        elif example.label.refusal is None:
            harmful[example.language] += 1
    repeated: list[Example] = []
    for language, some in safe.items():
        lacking = min(harmful[language], HARMLESS_REPEATS * len(some)) - len(some)
        repeated += (some * HARMLESS_REPEATS)[: max(0, lacking)]
    return repeated


def _own_example(own: OwnPrompt, reply: str | None = None) -> Example:
    """An example of the prompt alone, or with a reply that complies."""
    messages = [Message(Role.USER, own.text)]
    if reply is not None:
        messages.append(Message(Role.ASSISTANT, reply))
    severity = "Unsafe" if own.category else "Safe"
    label = Label(severity, own.category, None if reply is None else False)
    return Example(tuple(messages), label, bool(own.category), language=own.language)


def _own_examples(
    harmful_rows: Sequence[OwnPrompt], vocabulary: Vocabulary, rng: random.Random
) -> list[Example]:
    """Our own sentences, with variants, replies and refusals."""
    everyday, contrasts = everyday_prompts(), contrast_prompts()
    harmful = [own for own in contrasts if own.category]
    made = [_own_example(own) for own in (*everyday, *contrasts)]
    made += [_own_example(own) for own in word_swap_prompts(harmful_rows, vocabulary, rng)]
    made += [_own_example(own, benign_answer(rng)) for own in rng.sample(everyday, OWN_ANSWERS)]
    made += [
        _own_example(own, complying_reply(own.text, rng))
        for own in rng.sample(harmful, OWN_ANSWERS)
    ]
    # Most refusals answer harmful requests; the reply itself is always safe.
    prompts = [own.text for own in (*harmful_rows, *harmful, *everyday)]
    for prompt, reply, label in own_refusals(prompts, OWN_REFUSALS, rng):
        made.append(
            Example((Message(Role.USER, prompt), Message(Role.ASSISTANT, reply)), label, False)
        )
    return made


def _joined(
    prompts: Sequence[Example], labels: Sequence[Label], cut: Cut, rng: random.Random
) -> list[Example]:
    """Long messages, one per label: each joins prompts with that label, which stays correct."""
    of_label: dict[Label, list[Example]] = defaultdict(list)
    for example in prompts:
        of_label[example.label].append(example)
    made = []
    for label in labels:
        some = of_label[label]
        tokens = rng.randint(*JOINED_TOKENS)
        parts: list[str] = []
        # Four letters per token is only an estimate: the cut below is exact.
        while sum(map(len, parts)) < tokens * 4 and len(parts) < 60:
            parts.append(rng.choice(some).messages[-1].content)
        message = Message(Role.USER, cut(rng.choice(("\n", "\n\n", " ")).join(parts), tokens))
        made.append(Example((message,), label, some[0].unsafe, language="many"))
    return made


def _in_context(example: Example, replies: Sequence[Example], rng: random.Random) -> Example:
    """At random, adds turns of other conversations or a system message before the last message."""
    messages = example.messages
    if rng.random() < EARLIER_TURNS_SHARE:
        turns = [m for _ in range(rng.randint(1, 3)) for m in rng.choice(replies).messages]
        messages = (*turns, *messages)
    if rng.random() < SYSTEM_SHARE:
        messages = (Message(Role.SYSTEM, rng.choice(SYSTEM_MESSAGES)), *messages)
    return replace(example, messages=messages)


def cut_messages(example: Example, limit: int, cut: Cut) -> Example:
    """The example with each message cut to `limit` tokens."""
    messages = tuple(Message(m.role, cut(m.content, limit)) for m in example.messages)
    return replace(example, messages=messages)


def _modes(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    prompts = [e for e in examples if e.label.refusal is None]
    return prompts, [e for e in examples if e.label.refusal is not None]


def _sampled(some: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Draws `count` examples, without repeats if there are enough."""
    return rng.sample(some, count) if len(some) >= count else rng.choices(some, k=count)


def _assembled(
    base: Sequence[Example],
    examples: Sequence[Example],
    cut: Cut,
    vocabulary: Vocabulary,
    rng: random.Random,
) -> list[Example]:
    """The examples of `base` and our own, some with a context, and most of them cut short."""
    prompts, replies = _modes(examples)
    harmful = [
        OwnPrompt(e.messages[0].content, e.language, e.label.category) for e in prompts if e.unsafe
    ]
    mixed = []
    for example in [*base, *_own_examples(harmful, vocabulary, rng)]:
        limit = LONG if rng.random() < LONG_SHARE else SHORT
        mixed.append(cut_messages(_in_context(example, replies, rng), limit, cut))
    return mixed


def build_mixture(
    examples: Sequence[Example], cut: Cut, vocabulary: Vocabulary, seed: int
) -> list[Example]:
    """The examples of one pass of the first phase."""
    rng = random.Random(seed)  # noqa: S311  not a secret
    prompts, _ = _modes(examples)
    repeated = [*_rare_repeats(examples), *_harmless_repeats(examples)]
    mixed = _assembled([*examples, *repeated], examples, cut, vocabulary, rng)
    labels = [rng.choice(prompts).label for _ in range(JOINED)]
    return mixed + _joined(prompts, labels, cut, rng)


def build_balanced(
    examples: Sequence[Example], cut: Cut, vocabulary: Vocabulary, seed: int
) -> list[Example]:
    """The examples of one pass of the last phase.

    Every category is equally frequent, and Controversial more frequent, so that the model uses
    every label. Long messages of every label keep the length from predicting anything.
    """
    rng = random.Random(seed + 1)  # noqa: S311  not a secret
    prompts, replies = _modes(examples)
    base = _sampled(replies, BALANCED_REPLIES, rng)
    safe = [e for e in prompts if not e.label.category]
    base += _sampled([*safe, *_harmless_repeats(prompts)], BALANCED_SAFE, rng)
    for category in CATEGORIES:
        some = [e for e in prompts if e.label.category == category]
        base += _sampled(some, BALANCED_CATEGORY, rng)
    controversial = [e for e in prompts if e.label.severity == "Controversial"]
    base += _sampled(controversial, BALANCED_CONTROVERSIAL, rng)
    mixed = _assembled(base, examples, cut, vocabulary, rng)
    # Half of the long messages are safe, because most long text is.
    harmful_labels = list(dict.fromkeys(e.label for e in prompts if e.label.category))
    labels = [
        Label("Safe") if rng.random() < 0.5 else rng.choice(harmful_labels)
        for _ in range(BALANCED_JOINED)
    ]
    mixed += _joined(prompts, labels, cut, rng)
    return mixed + [_own_example(own) for own in machine_prompts(rng)]
