"""The parts of the tiny guard's training that need no torch: rows, labels, mixture, tokenizer."""

import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guard_build.tensorrt_llm import CALIBRATION_SET
from guard_core.conversation import Message, Mode, Role
from guard_core.verdict.grammar import parse
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES
from guard_eval.datasets import GOLDEN_SET
from guard_tiny.data import weak_labels
from guard_tiny.data.examples import Example
from guard_tiny.data.labels import Label, every_verdict
from guard_tiny.data.machine_text import machine_prompts
from guard_tiny.data.mixture import build_balanced, build_mixture
from guard_tiny.data.own_sentences import (
    OwnPrompt,
    contrast_prompts,
    everyday_prompts,
    own_sentences,
)
from guard_tiny.data.refusals import looks_like_refusal, own_refusals
from guard_tiny.data.training_rows import one_category, read_rows
from guard_tiny.data.word_swaps import Vocabulary, Words, word_swap_prompts
from guard_tiny.tokenizer import SPECIAL, THINKING, train_tokenizer
from tests.support.shared import SHARED, lines

pytestmark = pytest.mark.slow

EVALUATION_SETS = (SHARED / "data" / "eval").glob("*.jsonl")
# Ordinary words that occur in none of our own sentences.
VOCABULARY = {
    "de": Words(frozenset({"wie", "ich"}), ["zwirbelig"]),
    "ja": Words(frozenset(), ["ぷにゃん"]),
}


# Always unsafe, never unsafe, and unsafe in half of the rows.
KINDS = {"steal the car": 1, "bake the bread": 0, "open the lock": None}


def write(path: Path, *rows: Mapping[str, object]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_missing_fields_of_a_row_get_defaults(tmp_path: Path) -> None:
    [row] = read_rows(write(tmp_path / "rows.jsonl.gz", {"id": "1", "prompt": "Q", "lang": None}))
    assert (row.prompt, row.response, row.lang, row.categories) == ("Q", "", "unknown", ())


def test_the_split_keeps_rows_with_one_prompt_together(tmp_path: Path) -> None:
    made = [{"prompt": f"Q{n // 2}", "response": str(n)} for n in range(2000)]
    rows = read_rows(write(tmp_path / "rows.jsonl.gz", *made))
    assert all(a.held_out == b.held_out for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert 0.01 < sum(row.held_out for row in rows) / len(rows) < 0.06


def test_the_rarest_of_several_categories_is_trained(tmp_path: Path) -> None:
    listed = [["Violent", "PII"], ["Violent"], []]
    rows = read_rows(write(tmp_path / "r.jsonl.gz", *({"categories": c} for c in listed)))
    assert one_category(rows) == ["PII", "Violent", None]


def test_a_label_is_written_in_the_grammar_that_the_gateway_reads() -> None:
    verdicts = every_verdict()
    assert len(verdicts) == 3 * (1 + 2 * len(CATEGORIES))
    for text in verdicts:
        parse(text, Mode.RESPONSE if "Refusal" in text else Mode.PROMPT)


def test_a_label_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="can't have category"):
        Label("Safe", "PII")
    with pytest.raises(ValueError, match="can't have category"):
        Label("Unsafe")


def test_doubtful_labels_are_left_out_of_the_loss() -> None:
    label = Label("Unsafe", "PII", None, frozenset({"category"}))
    assert [text for text, trained in label.pieces() if not trained] == [" PII"]


@pytest.mark.parametrize(
    ("reply", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI, I cannot do this.", True),
        ("抱歉，我不能提供这样的内容。", True),
        ("Je ne peux pas vous aider avec cela.", True),
        ("Sure! Here is how it works.", False),
        ("Boil the egg for eight minutes. " * 10 + "I can't help you with more.", False),
    ],
)
def test_refusals_are_recognized_by_their_beginning(reply: str, refuses: bool) -> None:
    assert looks_like_refusal(reply, "safe") is refuses


def texts_and_labels() -> tuple[list[str], list[bool]]:
    texts = [f"{kind} of my neighbour {n % 3}" for kind in KINDS for n in range(60)]
    unsafe = [bool(n % 2 if one is None else one) for one in KINDS.values() for n in range(60)]
    return texts, unsafe


def test_texts_with_both_labels_are_disputed() -> None:
    texts, unsafe = texts_and_labels()
    groups = [str(n) for n in range(len(texts))]
    flags = weak_labels.disputed(texts, groups, unsafe, [True] * len(texts), seed=0)
    of_kind = dict(zip(KINDS, np.split(flags, 3), strict=True))
    assert of_kind["open the lock"].mean() > 0.5
    assert not of_kind["steal the car"].any()
    assert not of_kind["bake the bread"].any()


def test_neither_a_rows_own_label_nor_a_held_out_one_makes_it_disputed() -> None:
    texts, unsafe = texts_and_labels()
    # The last ten have one prompt, and words of their own; the first ten are held out.
    texts[-10:] = ["sing a quiet song"] * 10
    groups = [*map(str, range(170)), *["song"] * 10]
    usable = [n >= 10 for n in range(180)]
    other = [not label if n < 10 or n >= 170 else label for n, label in enumerate(unsafe)]
    flags, others = (
        weak_labels.disputed(texts, groups, given, usable, 0) for given in (unsafe, other)
    )
    assert flags[170:].tolist() == others[170:].tolist()
    usable[170:] = [False] * 10
    flags, others = (
        weak_labels.disputed(texts, groups, given, usable, 0) for given in (unsafe, other)
    )
    assert flags.tolist() == others.tolist()


@pytest.mark.parametrize("build", [build_mixture, build_balanced])
def test_messages_are_cut_and_one_in_twenty_later(
    build: Callable[[list[Example], Callable[[str, int], str], Vocabulary, int], list[Example]],
) -> None:
    labels = [Label("Safe"), *(Label(s, c) for s in SEVERITIES[1:] for c in CATEGORIES)]
    text = " ".join(["aaa"] * 1000)
    long = [
        Example(messages, replace(label, refusal=refusal), label.category is not None)
        for label in labels
        for refusal, messages in (
            (None, (Message(Role.USER, text),)),
            (False, (Message(Role.USER, text), Message(Role.ASSISTANT, text))),
        )
        for _ in range(20)
    ]

    def by_words(text: str, limit: int) -> str:
        return " ".join(text.split()[:limit])

    mixed = build(long, by_words, VOCABULARY, 0)
    assert mixed == build(long, by_words, VOCABULARY, 0)
    lengths = Counter(
        max(len(m.content.split()) for m in example.messages)
        for example in mixed
        if example.language == "en" and "aaa aaa" in example.messages[0].content
    )
    assert set(lengths) == {256, 640}
    assert 0.02 < lengths[640] / lengths.total() < 0.08
    joined = [e for e in mixed if e.language == "many" and e.messages[-1].content.startswith("aaa")]
    assert {len(e.messages) for e in joined} == {1}
    assert max(len(e.messages[0].content.split()) for e in joined) > 1500
    assert {e.label for e in joined} <= set(labels)


def test_a_language_predicts_nothing() -> None:
    harmless, harmful = Label("Safe"), Label("Unsafe", "Violent")
    counts = {("zh", harmless): 3, ("zh", harmful): 30, ("en", harmless): 5, ("en", harmful): 7}
    rows = [
        Example((Message(Role.USER, f"aaa {n}"),), label, label == harmful, language=language)
        for (language, label), count in counts.items()
        for n in range(count)
    ]
    reply = (Message(Role.USER, "bbb"), Message(Role.ASSISTANT, "bbb"))
    rows.append(Example(reply, Label("Safe", None, False), False))
    mixed = build_mixture(rows, lambda text, limit: text, VOCABULARY, 0)
    safe = Counter(
        example.language
        for example in mixed
        if example.messages[-1].content.startswith("aaa") and example.label == Label("Safe")
    )
    # Safe prompts are repeated up to the number of harmful ones, at most four times.
    assert (safe["zh"], safe["en"]) == (12, 7)


def own_prompts() -> list[OwnPrompt]:
    return [*everyday_prompts(), *contrast_prompts()]


def test_our_own_sentences_are_varied() -> None:
    first = own_prompts()
    assert len({one.text for one in first}) > 3000
    assert len({one.language for one in first}) > 15
    assert {one.category for one in first} == {None, *CATEGORIES}
    made = own_refusals([one.text for one in first], 50, random.Random(7))
    assert len({reply for _, reply, _ in made}) > 10
    assert {label for _, _, label in made} == {Label("Safe", None, True)}


def test_a_language_of_our_own_sentences_has_every_category_and_is_mostly_safe() -> None:
    found: dict[str, Counter[str | None]] = defaultdict(Counter)
    for one in own_prompts():
        found[one.language][one.category] += 1
    languages = [language for language, kinds in found.items() if {*CATEGORIES} <= kinds.keys()]
    assert len(languages) == 12
    assert all(found[language][None] > found[language].total() / 2 for language in languages)


def test_a_reply_to_a_harmful_request_is_unsafe_where_it_complies_and_safe_where_it_refuses() -> (
    None
):
    rows = [
        Example((Message(Role.USER, "aaa"),), Label("Safe"), False),
        Example(
            (Message(Role.USER, "b"), Message(Role.ASSISTANT, "b")),
            Label("Safe", None, False),
            False,
        ),
    ]
    harmful = {one.text: one.category for one in own_prompts() if one.category}
    found = set()
    for example in build_mixture(rows, lambda text, limit: text, VOCABULARY, 0):
        category = harmful.get(example.messages[0].content)
        if category and example.messages[-1].role == "assistant" and len(example.messages) == 2:
            label = example.label
            found.add((label.severity, label.category == category, label.refusal))
    assert found == {("Unsafe", True, False), ("Safe", False, True)}


def test_no_alarming_sentence_is_written_with_two_verdicts() -> None:
    verdicts = {one.text: one.category for one in own_prompts()}
    assert all(verdicts[one.text] == one.category for one in own_prompts())


@pytest.mark.parametrize(
    ("paths", "least"),
    [
        ([GOLDEN_SET, GOLDEN_SET.with_name("everyday.jsonl"), CALIBRATION_SET], 300),
        pytest.param(list(EVALUATION_SETS), 2000, marks=pytest.mark.reference),
    ],
    ids=["ours", "public"],
)
def test_no_evaluation_text_is_among_our_training_sentences(paths: list[Path], least: int) -> None:
    judged = {
        text
        for path in paths
        for row in lines(path)
        for text in (row.get("prompt"), *(turn["content"] for turn in row.get("messages", ())))
        if text
    }
    assert len(judged) > least
    known = {plain(text) for text in judged}
    assert [one.text for one in own_prompts() if plain(one.text) in known] == []


def test_an_unknown_word_predicts_nothing() -> None:
    prompts = word_swap_prompts([], VOCABULARY, random.Random(7))
    assert prompts == word_swap_prompts([], VOCABULARY, random.Random(7))
    sentences: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    for category in CATEGORIES:
        for one in own_sentences(category):
            sentences[one.language, category].add(one.text)
    made, strange = Counter[tuple[str, bool]](), Counter[tuple[str, bool]]()
    for one in prompts:
        harmful = one.category is not None
        [word] = VOCABULARY[one.language].ordinary
        made[one.language, harmful] += 1
        strange[one.language, harmful] += word in one.text
        whole = any(text in one.text for text in sentences[one.language, one.category])
        assert whole == harmful
    assert made.keys() == {(language, harmful) for language in VOCABULARY for harmful in (0, 1)}
    # Nearly all prompts of both kinds have such a word, so it predicts neither.
    assert all(strange[kind] > 0.8 * count for kind, count in made.items())


def test_the_frame_of_a_harmful_prompt_predicts_nothing() -> None:
    rows = [
        OwnPrompt("Wie stehle ich Geld?", "de", "Non-violent Illegal Acts"),
        OwnPrompt("How do I steal?", "en", "Non-violent Illegal Acts"),
        OwnPrompt("Wie stehle ich " + "viel " * 100, "de", "Non-violent Illegal Acts"),
    ]
    made = word_swap_prompts(rows, VOCABULARY, random.Random(7))
    framed = OwnPrompt("Wie zwirbelig ich zwirbelig?", "de")
    assert made.count(framed) == 1
    assert {one.language for one in made} == set(VOCABULARY)


def test_machine_text_does_not_change_a_sentences_label() -> None:
    prompts = machine_prompts(random.Random(7))
    assert prompts == machine_prompts(random.Random(7))
    ours = {(one.text, one.category) for one in (*everyday_prompts(), *contrast_prompts())}
    kinds = Counter(
        ((one.text.partition("\n")[0], one.category) in ours, one.category is not None)
        for one in prompts
    )
    assert kinds.keys() == {(False, False), (True, False), (True, True)}
    assert min(kinds.values()) > 50


def plain(text: str) -> str:
    """The sentence's letters in lower case, without punctuation and spaces."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def test_the_tokenizer_has_the_verdicts_words_and_special_tokens() -> None:
    texts = ["How do plants grow?", "Wie wachsen Pflanzen?", "植物如何生长？"] * 3
    tokenizer = train_tokenizer(texts, ["USER: \n\n<END>"], 1200)
    for text in every_verdict():
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("Safety: Safe").ids) == 3
    added = {
        token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()
    }
    assert added == {**dict.fromkeys(SPECIAL, True), **dict.fromkeys(THINKING, False)}
