"""`guard build --dry-run`: everything is rendered and checked, and nothing is written."""

import re
from pathlib import Path

import pytest

from guard_build import BuildFailed
from guard_build.tensorrt_llm import Format, dry_run
from guard_build.tensorrt_llm.backend import check_config
from guard_build.tensorrt_llm.package import render_model
from tests.support.stand_ins.tensorrt_llm import FakeTools, engine_build, run

pytestmark = pytest.mark.slow


def test_a_dry_run_names_every_file_and_writes_nothing(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)
    text = "\n".join(dry_run(build, fake.container))
    assert not build.work.exists() and not build.slot.exists() and fake.ran() == []
    run(build, fake)
    for path in (path for path in build.slot.rglob("*") if path.is_file()):
        assert str(path) in text
    for stage in ("quantize", "compile"):
        assert f"{build.work / stage}; log: {build.work}/logs/{stage}.log" in text
    assert "--qformat fp8 --kv_cache_dtype fp8" in text
    assert "--speculative_decoding_mode draft_tokens_external --max_draft_len 16" in text
    config = (build.slot / "guard_green" / "config.pbtxt").read_text()
    *known, fingerprint = config.splitlines()  # of files that a dry run does not make
    assert all(f"    {line}" in text for line in known)
    assert fingerprint.startswith('parameters { key: "guard_fingerprint"')
    rows = len((build.work / "calibrate" / "train.jsonl").read_text().splitlines())
    assert re.search(rf"packed into {rows} rows of at most \d+ tokens, [0-4]\.\d% of", text)


def test_a_dry_run_says_that_a_tied_head_is_written(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path, Format.BF16)
    text = "\n".join(dry_run(build, fake.container))
    run(build, fake)
    linked = build.work / "links"
    assert f"--model_dir {linked} " in text
    assert f"tied to the embedding: {linked}/model-lm_head.safetensors\n" in text
    assert (linked / "model-lm_head.safetensors").is_file()


@pytest.mark.parametrize(
    ("written", "instead", "fault"),
    [
        ('"draft_input_ids"', '"draft_inputs_ids"', "no input draft_inputs_ids"),
        ('"end_id" data_type: TYPE_INT32', '"end_id" data_type: TYPE_INT64', "end_id is TYPE_INT3"),
        ('"sequence_length"', '"sequence_lengths"', "no output sequence_lengths"),
        ('"total_draft_tokens"', '"batch_index"', "it needs the output total_draft_tokens"),
        ('"enable_kv_cache_reuse"', '"kv_cache_reuse"', "no parameter kv_cache_reuse"),
        ('"tokenizer_dir"', '"max_beam_width"', "it needs the parameter tokenizer_dir"),
        ("max_batch_size:", "max_batch_sizes:", "is no model configuration"),
    ],
)
def test_a_name_that_the_backend_does_not_know(written: str, instead: str, fault: str) -> None:
    config = render_model("guard_green", 64)
    check_config(config)
    assert written in config
    with pytest.raises(BuildFailed, match=fault):
        check_config(config.replace(written, instead))
