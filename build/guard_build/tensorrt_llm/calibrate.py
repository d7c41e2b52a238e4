"""Writes calibration data: conversations with their verdicts, as the model reads and writes them.

quantize.py loads a directory's train.jsonl with `datasets`, takes the field `text`, and tokenizes
it with the checkpoint's tokenizer, including special tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from guard_build.errors import BuildFailed
from guard_core.conversation import Mode
from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.prompt import Prompt
from guard_eval.rows import Example

CALIBRATION_SET = Path(__file__).parents[1] / "data" / "calibration.jsonl"
"""Our own conversations in many languages and both modes, disjoint from the golden set."""

FILE_NAME = "train.jsonl"
# If a path contains one of these, quantize.py takes it for the data set of that name.
_FORBIDDEN = ("cnn_dailymail", "scienceqa", "pileval")


def check_path(directory: Path) -> None:
    """Raises BuildFailed if quantize.py would take `directory` for the name of a data set."""
    for word in _FORBIDDEN:
        if word in str(directory):
            raise BuildFailed(
                f"{directory} has {word!r} in its name, which quantize.py takes for a data set of "
                "that name. Choose another directory with --work."
            )


def write_calibration(
    examples: Sequence[Example], template: str, tokenizer: str, end_id: int, directory: Path
) -> None:
    """Writes train.jsonl into `directory`.

    Raises BuildFailed for an example without labels, or one that spells a special token.
    """
    prompt = Prompt(template, tokenizer)
    tokens = Tokenizer.from_str(tokenizer)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    rendering = environment.from_string(template)
    end = tokens.id_to_token(end_id)
    if end is None:
        raise BuildFailed(f"The tokenizer has no token {end_id}, the checkpoint's end token.")
    with (directory / FILE_NAME).open("w", encoding="utf-8") as stream:
        for example in examples:
            turns = [asdict(message) for message in example.messages]
            rendered: str = rendering.render(messages=turns, add_generation_prompt=True)
            ids = tokens.encode(rendered, add_special_tokens=False).ids
            if ids != prompt.ids(example.messages):
                raise BuildFailed(
                    f"Calibration row {example.id} spells a special token, which quantize.py would "
                    "encode as that token. Remove the row."
                )
            row = {"text": f"{rendered}{_verdict(example)}{end}"}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _verdict(example: Example) -> str:
    responds = example.mode == Mode.RESPONSE
    if example.severity is None or (responds and example.refusal is None):
        raise BuildFailed(
            f"Calibration row {example.id} has no severity"
            f"{' or no refusal' if responds else ''}: the model is calibrated on the "
            "verdicts that it writes. Label the row, or remove it."
        )
    return write(Verdict(example.severity, example.categories or (), example.refusal))
