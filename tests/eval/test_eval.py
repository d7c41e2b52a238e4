"""`guard eval` against a running tiny guard: its figures, its files, and going on after a stop."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import precision_recall_fscore_support

from guard_server.api import enums as contract
from tests.eval.support import by_sklearn, values
from tests.support.commands import GUARD, guard, start
from tests.support.gateway import Client
from tests.support.ports import free_port
from tests.support.serving import Served
from tests.support.shared import SHARED, lines

FILES = {"report.json", "report.md", "rows.jsonl", "answers.jsonl"}
RATES = ("precision", "recall", "f1")
PUBLIC_KEYS = ("--ignore", "source", "--ignore", "lang", "--ignore", "license")
PLOTS = {"precision_recall.png", "calibration.png", "confusion.png"}


def run(served: Served, out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    target = f"127.0.0.1:{served.port}"
    return guard("eval", "--target", target, "--out", str(out), *map(str, arguments))


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def evaluated(
    served: Served, own: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of one evaluation of our own sets, and what it said."""
    out = tmp_path_factory.mktemp("eval")
    done = run(served, out, *own, "--paper")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_figures_equal_an_independent_computation(
    evaluated: tuple[Path, str], own: list[Path]
) -> None:
    out, _ = evaluated
    sets = {path.stem: path for path in own}
    seen = set()
    for one in report(out)["quality"]:
        if one["set"] in sets:
            for reading in ("strict", "loose"):
                expected = by_sklearn(sets[one["set"]], out, one["mode"], reading)
                assert values(one[reading]) == pytest.approx(expected, abs=1e-9)
                seen.add((one["set"], one["mode"]))
            verdicts = one["verdicts"]
            read_alike = 1 - verdicts["Controversial"] / sum(verdicts.values())
            assert one["agreement"]["value"] == pytest.approx(read_alike)
            assert one["agreement"]["low"] <= read_alike <= one["agreement"]["high"]
    assert seen == {("asked", "prompt"), ("xstest", "prompt"), ("xstest", "response")}


@pytest.mark.reference
def test_figures_of_public_sets_equal_an_independent_computation(
    served: Served, tmp_path: Path
) -> None:
    sets = sorted((SHARED / "data" / "eval").glob("*.jsonl"))
    assert len(sets) == 4
    done = run(served, tmp_path, *sets, *PUBLIC_KEYS)
    assert done.returncode == 0, done.stderr
    *each, together = report(tmp_path)["quality"]
    for one, path in zip(each, sets, strict=True):
        assert one["texts"] == len(lines(path)) == sum(one["verdicts"].values())
        for reading in ("strict", "loose"):
            expected = by_sklearn(path, tmp_path, "prompt", reading)
            assert values(one[reading]) == pytest.approx(expected, abs=1e-9)
    assert together["texts"] == sum(one["texts"] for one in each)


def test_refusals_and_categories_are_counted(evaluated: tuple[Path, str], own: list[Path]) -> None:
    out, _ = evaluated
    quality = {(one["set"], one["mode"]): one for one in report(out)["quality"]}
    answers = {(row["id"], row["mode"]): row["answer"] for row in lines(out / "rows.jsonl")}
    replies = lines(own[1])
    labelled = [row["refusal"] == "yes" for row in replies]
    judged = [answers[row["id"], "response"]["refusal"] for row in replies]
    expected = precision_recall_fscore_support(labelled, judged, average="binary")[:3]
    refusals = quality["xstest", "response"]["refusals"]
    assert (refusals["texts"], refusals["refusing"]) == (6, 2)
    assert [refusals[name]["value"] for name in RATES] == list(expected)

    confusion = quality["all sets", "prompt"]["categories"]
    counts = {
        (row, column): count
        for row, of_row in zip(confusion["labelled"], confusion["counts"], strict=True)
        for column, count in zip(confusion["judged"], of_row, strict=True)
    }
    safe = [row for row in (*lines(own[0]), *replies) if row["prompt_label"] == "safe"]
    assert sum(n for (row, _), n in counts.items() if row == "None") == len(safe)
    assert confusion["harmful"] == 3 == sum(n for (row, _), n in counts.items() if row == "Violent")
    hits = sum(
        "Violent" in answers[name, "prompt"]["categories"]
        for name in ("unsafe-0", "unsafe-1", "unsafe-5")
    )
    assert counts["Violent", "Violent"] == hits
    assert confusion["agreement"]["value"] == pytest.approx(hits / 3)


async def test_verdicts_are_those_that_the_service_gives(
    evaluated: tuple[Path, str], own: list[Path], client: Client
) -> None:
    out, _ = evaluated
    answers = {row["id"]: row["answer"] for row in lines(out / "rows.jsonl")}
    for row in lines(own[0]):
        reply = await client.judge(row["prompt"], with_scores=True)
        answer, scores = answers[row["id"]], reply.verdict.scores
        expected = [scores.safe, scores.controversial, scores.unsafe]
        assert answer["scores"] == pytest.approx(expected, abs=0.02)
        if sorted(expected)[-1] - sorted(expected)[-2] > 0.1:  # batches differ by a little
            assert reply.verdict.severity == contract.SEVERITIES[answer["severity"]]


async def test_the_report_says_of_what_and_how(
    evaluated: tuple[Path, str], own: list[Path], client: Client
) -> None:
    out, said = evaluated
    assert {path.name for path in out.iterdir()} == FILES | PLOTS
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS)
    found, page = report(out), (out / "report.md").read_text()
    model = (await client.judge("Hello!")).model
    assert found["model"]["fingerprint"] == model.fingerprint
    for text in (page, said):
        assert model.fingerprint in text
        assert "demonstration" in text
    assert f"guard eval --target 127.0.0.1:{client.port} --out {out}" in page
    assert found["command"].endswith("--paper")
    assert [one["texts"] for one in found["data"]] == [16, 12]
    assert all(one["sha256"] in page for one in found["data"])
    assert all(f"({name})" in page for name in PLOTS)


def test_the_papers_tables_stand_beside_it(evaluated: tuple[Path, str]) -> None:
    out, said = evaluated
    quality = {(one["set"], one["mode"]): one for one in report(out)["quality"]}
    response = quality["xstest", "response"]
    for text in ((out / "report.md").read_text(), said):
        assert all(f"Table {number}:" in text for number in (2, 3, 7))
        assert "arXiv:2510.14276" in text
        rows = [line for line in text.splitlines() if "this run, strict" in line]
        assert f"{100 * response['strict']['f1']['value']:.1f}" in rows[1]
        assert "-" in rows[0].split()  # none of the sets is a prompt benchmark of Table 2
        [refusals] = [
            line
            for line in text.splitlines()
            if "this run" in line and not ("strict" in line or "loose" in line)
        ]
        shown = [f"{100 * response['refusals'][name]['value']:.1f}" for name in RATES]
        assert [cell for cell in refusals.replace("|", " ").split() if cell in shown] == shown


def test_no_content_is_in_any_file(evaluated: tuple[Path, str], own: list[Path]) -> None:
    out, said = evaluated
    texts = [row["prompt"] for path in own for row in lines(path)]
    for name in FILES:
        written = (out / name).read_text()
        assert not [text for text in texts if text in written or text in said]


def test_a_second_run_asks_nothing_twice(
    served: Served, evaluated: tuple[Path, str], own: list[Path]
) -> None:
    out, _ = evaluated
    before = report(out)
    assert before["conversations_asked"] == 28
    answers = out / "answers.jsonl"
    kept = answers.read_bytes().splitlines(keepends=True)
    # As a kill leaves it: two answers are missing, and one is cut off.
    answers.write_bytes(b"".join(kept[:-3]) + kept[-3][:40])
    assert run(served, out, *own).returncode == 0
    after = report(out)
    assert after["conversations_asked"] == 3
    assert len(answers.read_bytes().splitlines()) == 28
    assert [one["texts"] for one in after["quality"]] == [one["texts"] for one in before["quality"]]
    assert run(served, out, *own).returncode == 0
    assert report(out)["conversations_asked"] == 0


def test_ctrl_c_keeps_the_answers(served: Served, own: list[Path], tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    target = f"127.0.0.1:{served.port}"
    command = [GUARD, "eval", own[0], "--out", tmp_path, "--target", target, "--rate=2"]
    with start(command, tmp_path / "output.txt") as running:
        deadline = time.monotonic() + 60
        while not (answers.exists() and answers.read_bytes()):
            assert not running.ended() and time.monotonic() < deadline
            time.sleep(0.05)
        running.signal(signal.SIGINT)
        assert running.process.wait(60) == 130
    assert "run the same command again to go on" in running.said()
    assert "Traceback" not in running.said()
    kept = len(answers.read_bytes().splitlines())
    assert run(served, tmp_path, own[0]).returncode == 0
    assert report(tmp_path)["conversations_asked"] == 16 - kept


def test_a_terminal_shows_how_far_it_is(
    served: Served, own: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run(served, tmp_path, own[1], "--rate", "20")
    counts = [int(n) for n in re.findall(r"Judging.*?(\d+)/12", done.stderr)]
    assert counts == sorted(counts)
    assert any(0 < count < 12 for count in counts)
    assert counts[-1] == 12


def test_the_rate_is_bounded(served: Served, own: list[Path], tmp_path: Path) -> None:
    assert run(served, tmp_path, own[1], "--rate", "40", "--in-flight", "2").returncode == 0
    found = report(tmp_path)
    assert found["seconds"] >= (found["conversations_asked"] - 1) / 40


def test_what_cannot_be_evaluated_names_the_next_step(
    served: Served, own: list[Path], tmp_path: Path
) -> None:
    refused = guard("eval", str(own[0]), "--target", f"127.0.0.1:{free_port()}")
    assert refused.returncode == 1
    assert "make serve" in refused.stderr
    slot = run(served, tmp_path, own[0], "--slot", "green")
    assert slot.returncode == 1
    assert "--allow-slot-choice" in slot.stderr
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a"}\n')
    data = run(served, tmp_path, bad)
    assert data.returncode == 2
    assert "line 1: prompt: the row has neither" in data.stderr
    assert run(served, tmp_path, own[0], "--field", "prompt").returncode == 2
    (tmp_path / "answers.jsonl").write_text('{"x": 1}\n')
    damaged = run(served, tmp_path, own[0])
    assert damaged.returncode == 1
    assert "answers.jsonl, line 1" in damaged.stderr


def test_responses_are_typed_and_judged_while_they_are_written(
    served: Served, own: list[Path], tmp_path: Path
) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    done = run(served, out, *own, "--live", "--live-rate", "400", "--json", copy)
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "live.json").read_bytes())
    assert json.loads(copy.read_bytes()) == figures
    responses = [row for path in own for row in lines(path) if row.get("response_label")]
    assert figures["answers"] == figures["allowed"] + figures["blocked"] == len(responses) > 0
    assert figures["checks_per_1000_tokens"] > 0
    assert figures["computed_per_1000_tokens"] > 1_000
    assert (out / "cleared.png").stat().st_size > 10_000
    assert "retracted, % of the allowed" in done.stdout


def test_live_needs_responses(served: Served, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Q", "prompt_label": "safe"}\n')
    done = run(served, tmp_path / "out", prompts, "--live")
    assert (done.returncode, "no labelled response" in done.stderr) == (1, True)
