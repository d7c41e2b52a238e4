"""`guard verify` as operators run it: two slots, two Tritons, the tiny guard."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from guard_build import BuildFailed
from guard_build.tensorrt_llm import CALIBRATION_SET, Format, recipe
from guard_cli.commands import build_gpu
from guard_eval.datasets import GOLDEN_SET
from tests.support.commands import guard
from tests.support.models.damage import damaged
from tests.support.ports import free_port
from tests.support.serving import Served
from tests.support.slots import TINY

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth conversation of the golden set."""
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    path.write_text("".join(GOLDEN_SET.read_text().splitlines(keepends=True)[::4]))
    return path


def verify(candidate: Path, reference: Path, *options: str) -> tuple[int, str, str]:
    done = guard("verify", str(candidate), "--against", str(reference), *options)
    return done.returncode, done.stdout, done.stderr


def test_int8_agrees_with_f32(blue: Path, green: Path, tmp_path: Path) -> None:
    code, out, err = verify(blue, green, "--json", str(tmp_path / "report.json"))
    assert code == 0, out + err
    first, *rest = out.splitlines()
    assert first.startswith("Verified with a small set: ") and "2,000" in first
    assert rest[-1] == "Passed"
    found = json.loads((tmp_path / "report.json").read_text())
    assert not found["release_gate"] and found["same_checkpoint"] and found["reasons"] == []
    report = found["report"]
    assert report["agreement"]["value"] >= 0.99
    assert report["agreement"]["total"] == len(GOLDEN_SET.read_text().splitlines())
    assert report["agreement"]["total"] - report["agreement"]["hits"] == len(report["differing"])
    assert report["candidate"]["ungrammatical"] == report["reference"]["ungrammatical"] == 0
    assert 0 < report["drift"]["mean"] < 0.1


def test_a_damaged_engine_is_caught(blue: Path, served: Served, few: Path, tmp_path: Path) -> None:
    at = ("--against-triton", served.triton)
    code, out, _ = verify(damaged(blue, tmp_path), blue, "--data", str(few), *at)
    assert code == 1
    assert "Refused\n  Agreement is 0." in out
    assert "0 verdicts outside the grammar" in out


def test_a_build_is_refused_by_the_same_gate(
    blue: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_gpu, "GOLDEN_SET", few)
    wanted = build_gpu.GpuBuild(
        checkpoint=str(TINY),
        revision=None,
        slot=tmp_path / "green",
        kind=Format.FP8,
        recipe=recipe(Format.FP8),
        work=tmp_path,
        calibration=CALIBRATION_SET,
        against=blue,
        json=tmp_path / "report.json",
    )
    packaged = damaged(blue, tmp_path)
    with pytest.raises(
        BuildFailed, match=r"The new engine is refused, .*green is as it was: Agree"
    ):
        build_gpu.verify_packaged(wanted, Console(quiet=True), packaged)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["reasons"] and found["report"]["differing"]


def test_slots_that_run_already(blue: Path, served: Served, tmp_path: Path) -> None:
    eight = tmp_path / "eight.jsonl"
    eight.write_text("".join(GOLDEN_SET.read_text().splitlines(keepends=True)[:8]))
    at = served.triton
    running = ("--data", str(eight), "--triton", at, "--against-triton", at)
    code, out, _ = verify(blue, blue, *running)
    assert code == 0
    assert "1.0000 (8 of 8" in out
    unused = f"127.0.0.1:{free_port()}"
    code, out, err = verify(blue, blue, *running[:-1], unused)
    assert (code, out) == (1, "")
    assert "Slot blue can't be asked. The engine can't be reached." in err


@pytest.mark.parametrize(
    ("candidate", "text"),
    [("missing", "manifest.json does not exist"), ("changed", "is not the file that the slot")],
)
def test_bad_slots(blue: Path, tmp_path: Path, candidate: str, text: str) -> None:
    changed = damaged(blue, tmp_path / "changed")
    [weights] = changed.glob("*/1/openvino_model.bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    slot = {"missing": tmp_path / "missing", "changed": changed}[candidate]
    code, out, err = verify(slot, blue)
    assert (code, out) == (1, "")
    assert text in err


def test_bad_data(blue: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"id": "1"}')
    code, out, err = verify(blue, blue, "--data", str(tmp_path / "data.jsonl"))
    assert (code, out) == (2, "")
    assert "line 1: prompt: the row has neither `prompt` nor `messages`" in err


def test_a_report_that_could_not_be_written(blue: Path, tmp_path: Path) -> None:
    code, out, err = verify(blue, blue, "--json", str(tmp_path / "none" / "report.json"))
    assert (code, out) == (2, "")
    assert "is no directory" in err
