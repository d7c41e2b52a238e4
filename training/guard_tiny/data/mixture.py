"""What is trained in one pass: rows, rare categories again, own writing, long and many-turned."""

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
    Written,
    benign_answer,
    complying_reply,
    contrast_prompts,
    everyday_prompts,
)
from guard_tiny.data.refusals import written_refusals
from guard_tiny.data.word_swaps import Vocabulary, unfamiliar_prompts

RARE_FLOOR = 900  # a category is repeated until it has so many prompts ...
RARE_REPEATS = 5  # ... but none more often than this
HARMLESS_REPEATS = 4  # of a language's safe prompts, until they are as many as its others
WRITTEN_ANSWERS, WRITTEN_REFUSALS = 3000, 2400
BALANCED_CATEGORY, BALANCED_SAFE, BALANCED_REPLIES = 1300, 16_000, 6_000
BALANCED_CONTROVERSIAL = 2000  # by far too few otherwise for a small model ever to say it
SHORT, LONG = 256, 640  # tokens of a message kept
LONG_SHARE = 0.05
JOINED, BALANCED_JOINED = 500, 1500  # examples of several messages joined, to JOINED_TOKENS
JOINED_TOKENS = (300, 2200)
EARLIER_TURNS_SHARE = 0.06
SYSTEM_SHARE = 0.02

Cut = Callable[[str, int], str]


def _rare_again(examples: Sequence[Example]) -> list[Example]:
    of_category: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.label.category and example.label.refusal is None:
            of_category[example.label.category].append(example)
    again: list[Example] = []
    for some in of_category.values():
        repeats = min(RARE_REPEATS, RARE_FLOOR // len(some))
        again += some * max(0, repeats - 1)
    return again


def _harmless_again(examples: Sequence[Example]) -> list[Example]:
    """So that a language in itself says nothing: of the Chinese rows six in seven are harmful."""
    safe: dict[str, list[Example]] = defaultdict(list)
    harmful: Counter[str] = Counter()
    for example in examples:
        if example.label.refusal is None and example.label.severity == "Safe":
            safe[example.language].append(example)
        elif example.label.refusal is None:
            harmful[example.language] += 1
    again: list[Example] = []
    for language, some in safe.items():
        lacking = min(harmful[language], HARMLESS_REPEATS * len(some)) - len(some)
        again += (some * HARMLESS_REPEATS)[: max(0, lacking)]
    return again


def _written(one: Written, reply: str | None = None) -> Example:
    """The prompt alone, or with a reply that does what it asks for."""
    messages = [Message(Role.USER, one.text)]
    if reply is not None:
        messages.append(Message(Role.ASSISTANT, reply))
    severity = "Unsafe" if one.category else "Safe"
    label = Label(severity, one.category, None if reply is None else False)
    return Example(tuple(messages), label, bool(one.category), language=one.language)


def _own_writing(
    harmful_rows: Sequence[Written], vocabulary: Vocabulary, rng: random.Random
) -> list[Example]:
    everyday, contrasts = everyday_prompts(), contrast_prompts()
    harmful = [one for one in contrasts if one.category]
    made = [_written(one) for one in (*everyday, *contrasts)]
    made += [_written(one) for one in unfamiliar_prompts(harmful_rows, vocabulary, rng)]
    made += [_written(one, benign_answer(rng)) for one in rng.sample(everyday, WRITTEN_ANSWERS)]
    made += [
        _written(one, complying_reply(one.text, rng))
        for one in rng.sample(harmful, WRITTEN_ANSWERS)
    ]
    # Mostly harmful requests are refused, and the reply is safe all the same.
    asked = [one.text for one in (*harmful_rows, *harmful, *everyday)]
    for prompt, reply, label in written_refusals(asked, WRITTEN_REFUSALS, rng):
        made.append(
            Example((Message(Role.USER, prompt), Message(Role.ASSISTANT, reply)), label, False)
        )
    return made


def _joined(
    prompts: Sequence[Example], labels: Sequence[Label], cut: Cut, rng: random.Random
) -> list[Example]:
    """Long messages: several of the same verdict in one, so that no new label is invented."""
    of_label: dict[Label, list[Example]] = defaultdict(list)
    for example in prompts:
        of_label[example.label].append(example)
    made = []
    for label in labels:
        some = of_label[label]
        room = rng.randint(*JOINED_TOKENS)
        parts: list[str] = []
        # Four letters a token is near enough: the cut below is exact.
        while sum(map(len, parts)) < room * 4 and len(parts) < 60:
            parts.append(rng.choice(some).messages[-1].content)
        message = Message(Role.USER, cut(rng.choice(("\n", "\n\n", " ")).join(parts), room))
        made.append(Example((message,), label, some[0].unsafe, language="many"))
    return made


def _in_context(example: Example, replies: Sequence[Example], rng: random.Random) -> Example:
    """Now and then the same last message after turns of other conversations, or after a system
    message; mostly as it is."""
    messages = example.messages
    if rng.random() < EARLIER_TURNS_SHARE:
        turns = [m for _ in range(rng.randint(1, 3)) for m in rng.choice(replies).messages]
        messages = (*turns, *messages)
    if rng.random() < SYSTEM_SHARE:
        messages = (Message(Role.SYSTEM, rng.choice(SYSTEM_MESSAGES)), *messages)
    return replace(example, messages=messages)


def cut_messages(example: Example, limit: int, cut: Cut) -> Example:
    """The same example with each message cut to so many tokens."""
    messages = tuple(Message(m.role, cut(m.content, limit)) for m in example.messages)
    return replace(example, messages=messages)


def _modes(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    prompts = [e for e in examples if e.label.refusal is None]
    return prompts, [e for e in examples if e.label.refusal is not None]


def _sampled(some: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """So many, none twice unless there are too few."""
    return rng.sample(some, count) if len(some) >= count else rng.choices(some, k=count)


def _assembled(
    base: Sequence[Example],
    examples: Sequence[Example],
    cut: Cut,
    vocabulary: Vocabulary,
    rng: random.Random,
) -> list[Example]:
    """The chosen rows and our own writing, some in context and nearly all cut."""
    prompts, replies = _modes(examples)
    harmful = [
        Written(e.messages[0].content, e.language, e.label.category) for e in prompts if e.unsafe
    ]
    mixed = []
    for example in [*base, *_own_writing(harmful, vocabulary, rng)]:
        limit = LONG if rng.random() < LONG_SHARE else SHORT
        mixed.append(cut_messages(_in_context(example, replies, rng), limit, cut))
    return mixed


def build_mixture(
    examples: Sequence[Example], cut: Cut, vocabulary: Vocabulary, seed: int
) -> list[Example]:
    """All that one pass of the main phase trains on."""
    rng = random.Random(seed)  # noqa: S311  not a secret
    prompts, _ = _modes(examples)
    again = [*_rare_again(examples), *_harmless_again(examples)]
    mixed = _assembled([*examples, *again], examples, cut, vocabulary, rng)
    labels = [rng.choice(prompts).label for _ in range(JOINED)]
    return mixed + _joined(prompts, labels, cut, rng)


def build_balanced(
    examples: Sequence[Example], cut: Cut, vocabulary: Vocabulary, seed: int
) -> list[Example]:
    """What a last phase trains on: each category as often, and more that is Controversial, so
    that no label goes unused; and long messages of every kind, so that length says nothing."""
    rng = random.Random(seed + 1)  # noqa: S311  not a secret
    prompts, replies = _modes(examples)
    base = _sampled(replies, BALANCED_REPLIES, rng)
    safe = [e for e in prompts if not e.label.category]
    base += _sampled([*safe, *_harmless_again(prompts)], BALANCED_SAFE, rng)
    for category in CATEGORIES:
        some = [e for e in prompts if e.label.category == category]
        base += _sampled(some, BALANCED_CATEGORY, rng)
    disputable = [e for e in prompts if e.label.severity == "Controversial"]
    base += _sampled(disputable, BALANCED_CONTROVERSIAL, rng)
    mixed = _assembled(base, examples, cut, vocabulary, rng)
    # Half of the long ones safe, since ordinary long text is.
    of_labels = list(dict.fromkeys(e.label for e in prompts if e.label.category))
    labels = [
        Label("Safe") if rng.random() < 0.5 else rng.choice(of_labels)
        for _ in range(BALANCED_JOINED)
    ]
    mixed += _joined(prompts, labels, cut, rng)
    return mixed + [_written(one) for one in machine_prompts(rng)]
