"""What FP8 and SmoothQuant are calibrated on: conversations, in rows with little padding."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guard_build import BuildFailed
from guard_build.checkpoint import Packaging
from guard_build.tensorrt_llm import CALIBRATION_SET, Format, calibrate
from guard_build.tensorrt_llm.calibrate import calibration_rows
from guard_build.tensorrt_llm.packing import pack
from guard_core.slot.slot_files import load_prompt
from guard_core.verdict.grammar import parse
from guard_eval.datasets import load_examples
from tests.support.shared import real_files
from tests.support.slots import TINY
from tests.support.stand_ins.tensorrt_llm import FakeTools, engine_build, run

pytestmark = pytest.mark.slow
TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))


def test_calibration_is_what_the_model_reads_and_writes(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)
    run(build, fake)
    lines = (build.work / "calibrate" / "train.jsonl").read_text().splitlines()
    prompt = load_prompt(TINY)
    end = TOKENIZER.encode("<|im_end|>", add_special_tokens=False).ids[0]
    rows = [
        TOKENIZER.encode(json.loads(line)["text"], add_special_tokens=False).ids for line in lines
    ]
    assert 1 - sum(map(len, rows)) / (len(rows) * max(map(len, rows))) < 0.01
    assert max(map(len, rows)) <= 1024
    waiting = {tuple(prompt.ids(item.messages)): item for item in load_examples(build.calibration)}
    rest = [token for row in rows for token in row]
    while rest:
        read = next(ids for ids in waiting if tuple(rest[: len(ids)]) == ids)
        item = waiting.pop(read)
        ended = rest.index(end, len(read))
        verdict = parse(prompt.decode(rest[len(read) : ended]), item.mode)
        assert verdict.severity == item.severity
        del rest[: ended + 1]
    assert not waiting


@pytest.mark.reference
def test_with_the_real_tokenizer_too_rows_have_little_padding() -> None:
    template, tokenizer = real_files()
    packaging = Packaging("real", False, (151645,), template, tokenizer.encode())
    rows = calibration_rows(load_examples(CALIBRATION_SET), packaging)
    assert rows.padding < 0.01
    assert max(rows.tokens) <= 1024


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=20), st.integers(20, 60))
def test_packing_loses_nothing_and_fills_rows(texts: list[str], most: int) -> None:
    rows = pack([*texts, "."], TOKENIZER, most)
    assert "".join(text for text, _ in rows) == "".join(texts) + "."
    for text, size in rows:
        assert size == len(TOKENIZER.encode(text, add_special_tokens=False).ids) <= most


def test_data_that_fill_too_many_rows(
    fake: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MAX_CALIBRATION_ROWS", 9)
    with pytest.raises(BuildFailed, match=r"fill \d\d rows .* 9 are enough. Give fewer"):
        run(engine_build(tmp_path), fake)
    assert fake.ran() == []


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "has no severity"),
        (
            {"messages": [{"role": "user", "content": "<|im_end|>"}], "severity": "Safe"},
            "spells a special token",
        ),
        ({"messages": []}, "messages"),
    ],
)
def test_calibration_data_that_can_not_be_used(
    fake: FakeTools, tmp_path: Path, row: dict[str, Any], text: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"id": "1", **row}))
    with pytest.raises(BuildFailed, match=text):
        run(engine_build(tmp_path, calibration=data), fake)
    assert fake.ran() == []


def test_a_conversation_that_the_template_can_not_render(fake: FakeTools, tmp_path: Path) -> None:
    """Two messages are rendered for every checkpoint; this template fails for three."""
    checkpoint = engine_build(tmp_path).checkpoint
    shutil.copytree(checkpoint.directory, tmp_path / "guard")
    with (tmp_path / "guard" / "chat_template.jinja").open("a") as template:
        template.write("{{ messages[3].x if messages|length > 2 }}")
    turns = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    (tmp_path / "data.jsonl").write_text(
        json.dumps({"id": "1", "messages": turns, "severity": "Safe"})
    )
    build = engine_build(
        tmp_path,
        checkpoint=type(checkpoint)(tmp_path / "guard", "guard"),
        calibration=tmp_path / "data.jsonl",
    )
    with pytest.raises(BuildFailed, match=r"Calibration row 1: The template does not render"):
        run(build, fake)
    assert fake.ran() == []


def test_a_path_that_quantize_would_take_for_a_data_set(fake: FakeTools, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="'pileval' in its name"):
        run(engine_build(tmp_path, work=tmp_path / "my_pileval"), fake)
    run(engine_build(tmp_path, Format.BF16, work=tmp_path / "my_pileval"), fake)


@pytest.mark.parametrize("word", ["prompt-guard", "vila", "LLaVA"])
def test_a_path_that_quantize_would_take_for_another_model(
    fake: FakeTools, tmp_path: Path, word: str
) -> None:
    checkpoint = engine_build(tmp_path).checkpoint
    copy = tmp_path / word
    shutil.copytree(checkpoint.directory, copy)
    named = type(checkpoint)(copy, "guard")
    with pytest.raises(BuildFailed, match=r"takes for a model of that kind\. Copy the checkpoint"):
        run(engine_build(tmp_path, checkpoint=named), fake)
    run(engine_build(tmp_path, Format.BF16, checkpoint=named), fake)
