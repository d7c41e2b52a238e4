"""An answer that is judged while it is written: what is due, what is cleared, and when it stops."""

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest
import regex

from guard_core.conversation import MAX_CONTENT_BYTES
from guard_core.errors import RequestInvalid
from guard_core.live.beginnings import Boundary
from guard_core.live.live_session import Cadence, LiveSession, LiveState, StopRule
from guard_core.verdict.policy import Action
from tests.support.random_requests import INPUTS, SEED

SEQUENCES = INPUTS // 3  # each has some 20 verdicts
CLUSTERS = (
    *(
        "word",
        " ",
        " ",
        ". ",
        "! ",
        "\n",
        "\n- ",
        "\n1. ",
        "```\n",
        "| a |\n",
        "。",
        "。\u0301",
        "don't ",
    ),
    *(
        "\u0915\u094d\u0937",
        "👨‍👩‍👧",
        "🇩🇪",
        "🇫🇷",
        "e\u0301\u0323",
        "\r\n",
        "한",
        "\ufffd",
        "a\u200d",
    ),
)
WORDS = "one two three four five six seven eight nine ten"


def by_words(text: str) -> int:
    return len(text.split())


def session(
    *,
    every: int = 5,
    first: int = 5,
    boundary: Boundary = Boundary.SENTENCE,
    rule: StopRule | None = None,
    tokens: Callable[[str], int] = by_words,
    max_bytes: int = MAX_CONTENT_BYTES,
    cleared_bytes: int = 0,
) -> LiveSession:
    return LiveSession(
        Cadence(every, first, boundary, longest_hold_s=1.0),
        rule or StopRule(),
        tokens,
        max_bytes=max_bytes,
        cleared_bytes=cleared_bytes,
    )


def due(live: LiveSession, text: str, now: float = 0.0) -> str | None:
    """The beginning that is due once the text has come."""
    live.append(text, now)
    length = live.due(now)
    return None if length is None else live.text(length)


def edges(text: str) -> set[int]:
    """Bytes before which a cluster begins, found over the whole text."""
    found, at = {0}, 0
    for cluster in regex.findall(r"\X", text):
        at += len(cluster.encode())
        found.add(at)
    return found


def test_what_is_cleared_was_judged_and_ends_between_characters() -> None:
    rng = random.Random(SEED)
    for _ in range(SEQUENCES):
        one_sequence(rng)


def one_sequence(rng: random.Random) -> None:
    text = "".join(rng.choices(CLUSTERS, k=rng.randrange(1, 60)))
    whole = edges(text)
    live = session(
        every=rng.randrange(1, 12),
        first=rng.randrange(1, 6),
        boundary=rng.choice(list(Boundary)),
        rule=StopRule(rng.randrange(1, 4), rng.choice((0.0, 0.9)), rng.random() < 0.3),
        tokens=len,
    )
    allowed, before, now, at = 0, 0, 0.0, 0
    while at < len(text) and live.state is not LiveState.STOPPED:
        size = rng.randrange(1, 8)
        live.append(text[at : at + size], now)
        at += size
        now += rng.choice((0.01, 0.5))
        length = live.due(now)
        if length is None:
            continue
        assert 0 < length < len(live.text())
        if rng.random() < 0.1:
            live.skipped(length)
            continue
        action = rng.choice(list(Action))
        live.judged(length, action, rng.random(), now)
        assert live.judged_bytes == len(text[:length].encode())
        assert live.judged_bytes in whole
        allowed = max(allowed, live.judged_bytes if action is not Action.BLOCK else 0)
        assert live.cleared_bytes == allowed >= before
        assert (live.state is LiveState.PASSING) == (action is not Action.BLOCK)
        before = live.cleared_bytes
    if live.state is not LiveState.STOPPED:
        live.end()
        action = rng.choice(list(Action))
        live.finished(action, now)
        size = len(text.encode())
        assert live.judged_bytes == size
        assert live.cleared_bytes == (allowed if action is Action.BLOCK else size)


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        (f"{WORDS}. More", f"{WORDS}."),
        (f'"{WORDS}!"  And', f'"{WORDS}!"'),
        (f"{WORDS}\nnext", WORDS),
        (f"{WORDS}\n\n1. ite", WORDS),
        (f"{WORDS}:\n```\nx. y. z. print(1.5) # no. end", f"{WORDS}:\n```"),
        (f"{WORDS}\n| a. b. | c", WORDS),
        (f"```\n{WORDS}\n```\n{WORDS}. So", f"```\n{WORDS}\n```\n{WORDS}."),
        (f"{WORDS}给我推荐。「三本」", f"{WORDS}给我推荐。"),
        (f"{WORDS}给我。\u0301三", None),  # an accent belongs to what it stands after
        (f"{WORDS} à la carte. Ét", f"{WORDS} à la carte."),
        (f"{WORDS} 3.14 is", None),
        (f"{WORDS}.", None),  # the next character may be a digit
        ("one. two", None),  # not yet so many tokens
    ],
)
def test_a_beginning_ends_after_a_sentence_or_line(text: str, beginning: str | None) -> None:
    assert due(session(), text) == beginning


def test_a_sentence_that_does_not_end_is_cut_at_a_word_after_a_while() -> None:
    live = session()
    assert due(live, WORDS + " elev", now=3.0) is None
    assert live.look_again_at == 4.0
    assert live.due(3.9) is None
    assert live.text(live.due(4.0)) == WORDS
    assert live.look_again_at is None


def test_a_word_that_does_not_end_is_cut_between_characters() -> None:
    live = session(tokens=len)
    assert due(live, "🇩🇪" * 300) is None
    length = live.due(1.0)
    assert length == 598  # the last flag may belong to what comes


def test_due_is_only_what_has_grown_by_its_tokens() -> None:
    live = session(every=5, first=2, boundary=Boundary.WORD)
    assert due(live, "one") is None
    assert due(live, " two three") == "one two"
    live.judged(len("one two"), Action.ALLOW, None, 0.0)
    assert due(live, " four five six") is None
    assert due(live, " seven eight") == "one two three four five six seven"


def test_spaces_in_plenty_put_off_no_check_for_good() -> None:
    live = session(boundary=Boundary.WORD)
    assert due(live, " " * 5_000) is None
    more = " ".join([WORDS] * 30)
    assert due(live, f"{more} x") == " " * 5_000 + more


@pytest.mark.parametrize(
    "text",
    [each * 40_000 for each in (".", "1. ", ".)", "。", " ", "\n")],
)
@pytest.mark.parametrize("boundary", list(Boundary))
def test_an_odd_text_is_searched_in_a_moment(text: str, boundary: Boundary) -> None:
    live = session(boundary=boundary, tokens=len)
    begun = time.thread_time()
    due(live, text)
    live.due(1.0)
    assert time.thread_time() - begun < 5  # with the square of its length: minutes


def test_a_long_answer_is_not_searched_again_with_each_character() -> None:
    counted = 0

    def tokens(_: str) -> int:
        nonlocal counted
        counted += 1
        return 0

    live = session(tokens=tokens)
    for _ in range(20_000):
        due(live, "x")
    assert counted < 2_000


def test_one_blocked_beginning_holds_and_the_next_one_decides() -> None:
    live = session(boundary=Boundary.ANY, tokens=len)
    due(live, "x" * 100)
    assert live.judged(10, Action.ALLOW, None, 0.0)
    assert live.judged(20, Action.BLOCK, None, 0.0)
    assert (live.state, live.cleared_bytes) == (LiveState.HOLDING, 10)
    assert live.judged(30, Action.REVIEW, None, 0.0)
    assert (live.state, live.cleared_bytes) == (LiveState.PASSING, 30)
    assert live.judged(40, Action.BLOCK, None, 0.0)
    assert live.judged(50, Action.BLOCK, None, 0.0)
    assert (live.state, live.judged_bytes, live.cleared_bytes) == (LiveState.STOPPED, 50, 30)


def test_the_second_blocked_beginning_of_three_changes_nothing() -> None:
    live = session(rule=StopRule(confirm=3))
    due(live, "x" * 100)
    assert live.judged(20, Action.BLOCK, None, 0.0)
    assert not live.judged(30, Action.BLOCK, None, 0.0)
    assert live.judged(40, Action.BLOCK, None, 0.0)


@pytest.mark.parametrize(
    ("rule", "action", "unsafe", "state"),
    [
        (StopRule(unsafe_score=0.9), Action.BLOCK, 0.9, LiveState.STOPPED),
        (StopRule(unsafe_score=0.9), Action.BLOCK, 0.8, LiveState.HOLDING),
        (StopRule(unsafe_score=0.9), Action.REVIEW, 0.95, LiveState.PASSING),
        (StopRule(), Action.BLOCK, 1.0, LiveState.HOLDING),
        (StopRule(confirm=1), Action.BLOCK, None, LiveState.STOPPED),
        (StopRule(1, 0.9, never=True), Action.BLOCK, 1.0, LiveState.HOLDING),
    ],
)
def test_the_stop_rule(rule: StopRule, action: Action, unsafe: float, state: LiveState) -> None:
    live = session(rule=rule)
    due(live, "x" * 100)
    live.judged(20, action, unsafe, 0.0)
    assert live.state is state


def test_the_lag_is_that_of_the_oldest_text_that_is_cleared() -> None:
    live = session(boundary=Boundary.ANY, tokens=len)
    for now, text in enumerate(("abcdef", "ghijkl", "mnopqr")):
        due(live, text, float(now))
    live.judged(8, Action.ALLOW, None, 5.0)
    assert live.lag_s == 5.0
    live.judged(10, Action.BLOCK, None, 6.0)
    assert live.lag_s is None
    live.judged(12, Action.ALLOW, None, 7.0)
    assert live.lag_s == 6.0
    live.finished(Action.ALLOW, 9.0)
    assert live.lag_s == 7.0


def test_an_answer_in_single_characters_takes_little_memory() -> None:
    live = session()
    part = "".join(map(chr, range(0x400, 0x480)))
    tracemalloc.start()
    try:
        for _ in range(500):
            for number, character in enumerate(part):
                live.append(character, float(number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000  # of 128,000 bytes; each part by itself: 13 MB


def test_the_lag_of_many_parts_is_not_understated() -> None:
    live = session(boundary=Boundary.ANY, tokens=len)
    for number in range(50_000):
        live.append("x", float(number))
    before = 0
    for length in (1, 400, 25_000, 49_000):
        live.text()
        live.judged(length, Action.ALLOW, None, 50_000.0)
        assert live.lag_s is not None
        lag = 50_000 - before
        assert lag <= live.lag_s <= lag + 64  # parts that count as come together
        before = length


def test_a_resumed_answer_is_judged_beyond_what_was_cleared() -> None:
    cleared = "Grüße, one two three."
    live = session(cleared_bytes=len(cleared.encode()))
    assert due(live, cleared[:5]) is None
    assert due(live, f"{cleared[5:]} {WORDS}. So") == f"{cleared} {WORDS}."
    assert live.cleared_bytes == len(cleared.encode())
    live.end()
    live.finished(Action.BLOCK, 0.0)
    assert live.cleared_bytes == len(cleared.encode())


def test_what_can_not_have_been_cleared_is_refused() -> None:
    live = session(cleared_bytes=3)
    with pytest.raises(RequestInvalid, match="cleared_bytes"):
        due(live, "aaü" + WORDS)
    live = session(cleared_bytes=30)
    live.append("short", 0.0)
    with pytest.raises(RequestInvalid, match="cleared_bytes"):
        live.end()


def test_an_answer_ends_once_and_is_not_empty() -> None:
    live = session()
    live.append("", 0.0)
    with pytest.raises(RequestInvalid, match="empty"):
        live.end()
    live.append("x", 0.0)
    live.end()
    with pytest.raises(RequestInvalid, match="after `end`"):
        live.append("y", 0.0)
    with pytest.raises(RequestInvalid, match="twice"):
        live.end()


def test_more_bytes_than_are_left_are_refused_and_nothing_is_lost() -> None:
    live = session(max_bytes=10, boundary=Boundary.ANY, tokens=len)
    assert due(live, "12345678") is not None
    live.judged(6, Action.ALLOW, None, 0.0)
    with pytest.raises(RequestInvalid, match=r"11 bytes.*stays cleared"):
        live.append("9üx"[:2], 0.0)
    assert live.cleared_bytes == 6
