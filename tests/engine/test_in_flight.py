"""Requests in flight together get the same output as alone, and leave nothing behind."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from guard_bench import host
from guard_engine import (
    BadRequest,
    Completion,
    Engine,
    EngineClosed,
    EngineError,
    Request,
    RequestCancelled,
    StepFailed,
)
from guard_engine.runtime import Runtime
from guard_engine.sequence import Chunk
from tests.support.engines import Tiny, ask, asking, completed, make_engine, prompt


def mixed_requests(tiny: Tiny, count: int) -> tuple[list[Request], list[list[int]]]:
    """Different prompts and shared prefixes, short and chunked, drafted and plain."""
    shared = prompt(99, 80)
    requests, expected = [], []
    for n in range(count):
        own = prompt(n, 1 + 37 * n % 60) if n % 5 else prompt(n, 600)
        ids = [*shared, *own] if n % 3 else own
        answer = tiny.greedy(ids, 6)
        draft = answer[:5] if n % 2 else []
        if n % 4 == 1:
            draft[n % 5] = (draft[n % 5] + 1) % 150
            answer = answer[: n % 5 + 1]
        requests.append(Request(f"r{n}", ids, 6, draft))
        expected.append(answer)
    return requests, expected


@pytest.mark.slow
def test_many_at_once_equal_each_alone(engine: Engine, tiny: Tiny) -> None:
    requests, expected = mixed_requests(tiny, 40)
    assert [answer.output_ids for answer in ask(engine, *requests)] == expected
    assert [answer.output_ids for answer in ask(engine, *requests)] == expected  # from the cache


@pytest.mark.slow
def test_no_request_is_lost_when_blocks_run_out(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, kv_blocks=23)
    requests, expected = mixed_requests(tiny, 30)
    assert [answer.output_ids for answer in ask(engine, *requests)] == expected
    usage = engine.usage()
    assert (usage.held_blocks, usage.cached_blocks + usage.free_blocks) == (0, 23)
    engine.close()


@pytest.mark.slow
def test_no_request_is_lost_at_the_concurrency_limit(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, max_in_flight=2, step_tokens=16)
    requests, expected = mixed_requests(tiny, 12)
    assert [answer.output_ids for answer in ask(engine, *requests)] == expected
    engine.close()


def test_whole_blocks_are_reused(engine: Engine, tiny: Tiny) -> None:
    ids = prompt(1, 100)
    first = ask(engine, Request("a", ids, 4))[0]
    again = ask(engine, Request("a", ids, 4))[0]
    longer = ask(engine, Request("a", [*ids[:70], *prompt(2, 30)], 4))[0]
    assert [answer.reused_blocks for answer in (first, again, longer)] == [0, 3, 2]
    # But for the last output token, and what is shared of a part of a block.
    assert [answer.computed_tokens for answer in (first, again, longer)] == [103, 4, 33]
    assert again.output_ids == first.output_ids
    assert longer.output_ids == tiny.greedy([*ids[:70], *prompt(2, 30)], 4)


def test_the_last_prompt_token_is_always_computed(engine: Engine, tiny: Tiny) -> None:
    ids = prompt(3, 64)
    for reused in (0, 1):
        (answer,) = ask(engine, Request("a", ids, 2))
        assert answer.output_ids == tiny.greedy(ids, 2)
        assert answer.reused_blocks == reused


def test_generated_blocks_are_reused_by_a_grown_conversation(engine: Engine, tiny: Tiny) -> None:
    ids = prompt(4, 30)
    (answer,) = ask(engine, Request("a", ids, 40))
    grown = [*ids, *answer.output_ids, 7]
    (answer,) = ask(engine, Request("a", grown, 4))
    assert answer.reused_blocks == 2
    assert answer.output_ids == tiny.greedy(grown, 4)


def test_rejected_draft_tokens_are_never_reused(engine: Engine, tiny: Tiny) -> None:
    ids = prompt(5, 30)
    greedy = tiny.greedy(ids, 10)
    wrong = [*greedy[:1], *[(token + 1) % 150 for token in greedy[1:]]]
    ask(engine, Request("a", ids, 11, wrong))  # writes KV of rejected tokens into block 0
    (answer,) = ask(engine, Request("a", [*ids, *wrong], 3))
    assert answer.reused_blocks == 0
    (answer,) = ask(engine, Request("b", prompt(6, 30), 3, tiny.greedy(prompt(6, 30), 3)))
    assert answer.accepted_draft_tokens == 3
    (answer,) = ask(engine, Request("c", [*prompt(6, 30), *answer.output_ids], 3))
    assert answer.reused_blocks == 1  # accepted ones are


def test_the_cache_is_bounded_and_evicts_the_least_recently_used(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, kv_blocks=10)
    old, kept = prompt(7, 97), prompt(8, 97)
    for ids in (old, kept, kept, prompt(9, 140)):
        ask(engine, Request("a", ids, 1))
    assert ask(engine, Request("a", kept, 1))[0].reused_blocks == 3
    assert ask(engine, Request("a", old, 1))[0].reused_blocks < 3
    usage = engine.usage()
    assert usage.cached_blocks + usage.free_blocks == 10
    engine.close()


def test_a_request_that_continues_another_finds_its_blocks_in_a_full_pool(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, queued requests took those blocks, and a continued verdict was computed from zero."""
    engine = make_engine(tiny.xml, kv_blocks=16)  # four for each: `long` and three others
    asked, finished, compute = asking(engine), list[int](), Runtime.step

    def step(runtime: Runtime, chunks: list[Chunk]) -> object:
        """Callers send the next request while the engine computes a step that it planned before."""
        for n in finished:
            asked.submit(Request(f"r{n} again", [*prompt(n, 100), 159], 3))
        finished.clear()
        return compute(runtime, chunks)

    monkeypatch.setattr(Runtime, "step", step)
    asked.submit(Request("long", prompt(99, 40), 64))
    for n in range(12):
        first = Request(f"r{n}", prompt(n, 100), 5, [159] * 4)
        engine.submit(first, lambda _outcome, n=n: finished.append(n))  # type: ignore[misc]
    outcomes = asked.wait_for("long", *(f"r{n} again" for n in range(12)))
    assert [completed(outcome).reused_blocks for outcome in outcomes] == [0] + 12 * [3]
    engine.close()


def test_a_long_prompt_does_not_hold_up_a_short_one(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, step_tokens=64)
    asked = asking(engine)
    asked.submit(Request("long", prompt(1, 700), 1), Request("short", prompt(2, 20), 1))
    asked.wait_for("long")
    assert list(asked.outcomes) == ["short", "long"]
    engine.close()


def test_packed_weights_do_not_stay_mapped_beside(tiny: Tiny, tmp_path: Path) -> None:
    """They were in memory twice once."""
    for file in (tiny.xml, tiny.xml.with_suffix(".bin")):
        shutil.copy(file, tmp_path)
    engine = make_engine(tmp_path / tiny.xml.name)
    ask(engine, Request("a", prompt(1, 100), 1))
    _, mapping = Path("/proc/self/smaps").read_text().split(f"{tmp_path / tiny.xml.stem}.bin\n", 1)
    resident = next(line for line in mapping.splitlines() if line.startswith("Rss:"))
    assert resident.split() == ["Rss:", "0", "kB"]
    engine.close()


def test_memory_does_not_grow_with_every_number_of_tokens(engine: Engine) -> None:
    """OpenVINO keeps what it prepares for each number of rows, so there must be few of them."""
    ask(engine, Request("first", prompt(0, 320), 1))
    before = host.rss_mib()
    for length in range(20, 320):
        ask(engine, Request(f"r{length}", prompt(length, length), 1))
    assert host.rss_mib() - before < 40


def test_its_threads_may_run_on_any_core(engine: Engine) -> None:
    """By default OpenVINO pins them, and the threads of all engines to the same cores."""
    ask(engine, Request("r", prompt(0, 320), 1))
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("one core: there is nothing to pin to")
    pinned = []
    for path in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that ended meanwhile
            pinned.append(os.sched_getaffinity(int(path.name)) != allowed)
    assert pinned
    assert not any(pinned)


def test_a_cancelled_request_leaves_at_once(engine: Engine, tiny: Tiny) -> None:
    asked = asking(engine)
    gone = [Request(f"gone{n}", prompt(n, 690), 64) for n in range(6)]
    stays = Request("stays", prompt(9, 600), 5)
    asked.submit(*gone, stays)
    assert all(engine.cancel(request.id) for request in gone)
    outcomes = asked.wait_for(*(request.id for request in gone), "stays")
    assert all(isinstance(outcome, RequestCancelled) for outcome in outcomes[:-1])
    assert completed(outcomes[-1]).output_ids == tiny.greedy(prompt(9, 600), 5)


def test_cancelling_what_is_not_live(engine: Engine) -> None:
    assert not engine.cancel("unknown")
    ask(engine, Request("done", prompt(1, 5), 1))
    assert not engine.cancel("done")


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Request("a", [], 1), "The prompt is empty"),
        (Request("a", [1] * 701, 1), "Prompt length (701) exceeds maximum input length (700)"),
        (Request("a", [1] * 695, 9, [1] * 8), "Prompt length (703) exceeds maximum input length"),
        (Request("a", [1], 26, [1] * 25), "Draft length (25) exceeds maximum draft length (24)"),
        (Request("a", [1], 0), "Output length (0) is not between 1"),
        (Request("a", [1], 65), "maximum output length (64)"),
        (Request("a", [1, 160], 1), "outside the vocabulary (0 to 159)"),
        (Request("a", [-1], 1), "outside the vocabulary"),
        (Request("a", [1], 3, [2, 160]), "outside the vocabulary"),
    ],
)
def test_refused(engine: Engine, request_: Request, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        engine.submit(request_, lambda outcome: None)
    assert text in str(caught.value)


def test_what_can_never_fit_is_refused(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, kv_blocks=4)
    with pytest.raises(BadRequest, match="needs 5 KV blocks, but the engine has 4"):
        engine.submit(Request("a", prompt(1, 128), 2), lambda outcome: None)
    assert ask(engine, Request("a", prompt(1, 128), 1))[0].output_ids
    engine.close()


def test_a_live_id_is_refused_and_a_finished_one_is_not(engine: Engine) -> None:
    asked = asking(engine)
    asked.submit(Request("a", prompt(1, 690), 60))
    with pytest.raises(BadRequest, match="A request with id a is already in flight"):
        asked.submit(Request("a", [1], 1))
    engine.cancel("a")
    asked.wait_for("a")
    ask(engine, Request("a", [1], 1))


def test_close_fails_what_is_left(tiny: Tiny) -> None:
    engine = make_engine(tiny.xml, max_in_flight=1)
    asked = asking(engine)
    asked.submit(*(Request(f"r{n}", prompt(n, 600), 60) for n in range(3)))
    engine.close()
    outcomes = asked.wait_for("r0", "r1", "r2")
    assert isinstance(outcomes[-1], EngineClosed)
    assert engine.usage().held_blocks == 0
    with pytest.raises(EngineClosed):
        engine.submit(Request("a", [1], 1), lambda outcome: None)
    engine.close()


def test_a_prompt_that_shares_part_of_a_block_is_computed_from_there(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    step = Runtime.step

    def watched(runtime: Runtime, chunks: list[Chunk]) -> NDArray[np.float32]:
        begun.extend(chunk.begin for chunk in chunks)
        return step(runtime, chunks)

    monkeypatch.setattr(Runtime, "step", watched)
    shared = prompt(1, 41)  # a whole block and nine tokens of the next
    ask(engine, Request("a", [*shared, *prompt(2, 9)], 1))
    ask(engine, Request("b", [*shared, *prompt(3, 9)], 1))
    assert begun == [0, 41]


@pytest.mark.parametrize("method", ["runtime.Runtime.step", "scheduler.Scheduler.plan"])
def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    engine: Engine, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(f"guard_engine.{method}", fail)
        asked = asking(engine)
        asked.submit(Request("a", prompt(1, 40), 4))
        (outcome,) = asked.wait_for("a")
    assert isinstance(outcome, StepFailed)
    assert "out of luck" in str(outcome)
    assert ask(engine, Request("a", prompt(1, 40), 4))[0].output_ids == tiny.greedy(
        prompt(1, 40), 4
    )


def test_an_engine_stops_after_three_failed_steps_in_a_row(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    engine = make_engine(tiny.xml, max_in_flight=1)
    monkeypatch.setattr("guard_engine.runtime.Runtime.step", fail)
    asked = asking(engine)
    asked.submit(*(Request(f"r{n}", prompt(n, 40), 4) for n in range(5)))
    outcomes = asked.wait_for(*(f"r{n}" for n in range(5)))
    assert [type(outcome) for outcome in outcomes] == 3 * [StepFailed] + 2 * [EngineClosed]
    assert str(outcomes[0]) == "The model failed: MemoryError"
    with pytest.raises(EngineClosed):
        engine.submit(Request("later", [1], 1), lambda outcome: None)
    engine.close()
    assert engine.ended


def test_every_request_is_answered_when_the_thread_dies(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("guard_engine.scheduler.Scheduler.add", fail)
    engine = make_engine(tiny.xml)
    asked = asking(engine)
    asked.submit(Request("a", [1], 1))
    assert isinstance(asked.wait_for("a")[0], EngineClosed)
    with pytest.raises(EngineClosed):
        engine.submit(Request("b", [1], 1), lambda outcome: None)
    engine.close()


def test_a_failing_callback_does_not_stop_the_engine(engine: Engine) -> None:
    called = threading.Event()

    def fail(outcome: Completion | EngineError) -> None:
        called.set()
        raise RuntimeError("a defect of the caller's")

    engine.submit(Request("a", [1], 1), fail)
    assert called.wait(10)
    assert ask(engine, Request("b", [1], 1))
