"""A slot with the tiny guard's text side before the null engine."""

import shutil
from pathlib import Path

import jinja2

from guard_server import manifest as m
from guard_server.prompt import Prompt

MODEL = "guard_null"
_PROJECT = Path(__file__).parents[3]
_TEMPLATES = _PROJECT / "model_repository" / "templates"
_TINY_GUARD = _PROJECT / "checkpoints" / "tiny-guard"
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")
_TRITON_BATCH = 64


def write_null_slot(slot: Path, *, places: int, verdicts_per_second: float = 0) -> None:
    """Replaces `slot`. A rate of 0 answers at once."""
    shutil.rmtree(slot, ignore_errors=True)
    version = slot / MODEL / "1"
    version.mkdir(parents=True)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - this is no HTML
    )
    parameters = {"verdicts_per_second": verdicts_per_second, "places": places}
    config = environment.get_template("config.pbtxt.jinja").render(
        name=MODEL,
        backend="python",
        max_batch_size=_TRITON_BATCH,
        instance_kind="KIND_CPU",
        parameters=parameters,
    )
    (slot / MODEL / "config.pbtxt").write_text(config)
    shutil.copyfile(Path(__file__).with_name("null_model.py"), version / "model.py")
    for name in (m.TEMPLATE, m.TOKENIZER):
        shutil.copyfile(_TINY_GUARD / name, slot / name)
    added = Prompt.load(slot).added_tokens
    files = {path.relative_to(slot).as_posix(): m.describe(path) for path in _files(slot)}
    m.Manifest(
        model=m.Model(name="null-engine", demonstration=True, checkpoint={}),
        engine=m.Engine(kind="null", version="0", weights="f32", triton_model=MODEL),
        limits=m.Limits(
            max_input_tokens=8192,
            max_output_tokens=64,
            max_draft_tokens=24,
            max_in_flight=places,
            kv_block_tokens=32,
        ),
        tokens=m.Tokens(end_ids=tuple(added[token] for token in _END_TOKENS)),
        generation_logits=False,
        files={name: file for name, file in files.items() if file is not None},
    ).save(slot)


def _files(slot: Path) -> list[Path]:
    return sorted(path for path in slot.rglob("*") if path.is_file())
