"""The figures of live moderation, by hand."""

import pytest
from google.protobuf.json_format import ParseDict

from guard_core.conversation import Message, Role
from guard_eval.live.live_figures import live_figures
from guard_eval.live.live_runs import LiveRun
from guard_eval.rows import Example
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import LiveEvent

ANSWER = "x" * 100


def run(*states: tuple[str, int, int], blocked: bool, onset: int | None = None) -> LiveRun:
    """By state, judged and cleared bytes of each reply."""
    messages = (Message(Role.USER, "Q"), Message(Role.ASSISTANT, ANSWER))
    found = LiveRun(Example("1", messages, onset=onset), blocked, answer_tokens=50)
    for number, (state, judged, cleared) in enumerate(states, 1):
        reply = ParseDict(
            {
                "state": f"LIVE_STATE_{state}",
                "judged_bytes": judged,
                "cleared_bytes": cleared,
                "checks": number,
                "usage": {"prompt_tokens": 100 * number, "reused_tokens": 60 * number},
            },
            pb.ModerateLiveResponse(),
        )
        found.take(LiveEvent("", reply), number / 4)
    return found


def test_each_figure_is_of_its_answers() -> None:
    figures = live_figures(
        [
            run(("PASSING", 50, 50), ("FINISHED", 100, 100), blocked=False),
            run(("HOLDING", 50, 0), ("PASSING", 70, 70), ("FINISHED", 100, 100), blocked=False),
            run(("PASSING", 20, 20), ("HOLDING", 40, 20), ("STOPPED", 60, 20), blocked=False),
            run(("PASSING", 30, 30), ("FINISHED", 100, 30), blocked=True, onset=90),
            run(
                ("PASSING", 40, 40),
                ("HOLDING", 60, 40),
                ("STOPPED", 80, 40),
                blocked=True,
                onset=45,
            ),
            run(("FINISHED", 100, 0), blocked=True),
        ]
    )
    assert (figures.answers, figures.allowed, figures.blocked) == (6, 3, 3)
    assert figures.held == 3 / 6
    assert figures.retracted == 2 / 3
    assert figures.cut_off == 1 / 3
    assert figures.stopped == 1 / 3
    assert figures.late == 1 / 3
    assert figures.seen == pytest.approx(0.3)
    assert figures.delay_bytes == 15
    assert figures.missed_onsets == 1
    assert figures.checks_per_1000_tokens == 1000 * 14 / 300
    assert figures.computed_per_1000_tokens == 1000 * 40 * 14 / 300


def test_without_stops_and_onsets_there_are_no_figures_of_them() -> None:
    figures = live_figures([run(("FINISHED", 100, 100), blocked=False)])
    assert figures.late is figures.stopped is figures.seen is figures.delay_bytes is None
    assert "| late, % of the blocked | - |" in figures.grid().markdown()
