"""Writes calibration data: conversations with their verdicts, as the model reads and writes them.

quantize.py loads a directory's train.jsonl with `datasets`, takes the field `text`, and tokenizes
it with the checkpoint's tokenizer, including special tokens. The conversations stand one after the
other in rows of nearly equal length: see `packing`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from guard_build.checkpoint import Packaging
from guard_build.errors import BuildFailed
from guard_build.tensorrt_llm.commands import MAX_CALIBRATION_ROWS, MAX_CALIBRATION_TOKENS
from guard_build.tensorrt_llm.packing import pack, padding
from guard_core.conversation import Mode
from guard_core.errors import SlotInvalid
from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.prompt import Prompt
from guard_eval.rows import Example

CALIBRATION_SET = Path(__file__).parents[1] / "data" / "calibration.jsonl"
"""Our own conversations in many languages and both modes, disjoint from the golden set."""

FILE_NAME = "train.jsonl"


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """What quantize.py reads: the rows' texts, and their lengths in tokens."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]

    @property
    def padding(self) -> float:
        """The share of padding among the tokens that the model is calibrated on."""
        return padding(self.tokens)

    def write(self, directory: Path) -> None:
        """Writes train.jsonl into `directory`."""
        with (directory / FILE_NAME).open("w", encoding="utf-8") as stream:
            for text in self.texts:
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def calibration_rows(examples: Sequence[Example], packaging: Packaging) -> CalibrationRows:
    """Renders conversations with their verdicts, and packs them into rows.

    Raises BuildFailed for an example that has no labels or spells a special token, and if there are
    too many.
    """
    tokenizer = Tokenizer.from_str(packaging.tokenizer.decode())
    packed = pack(_rendered(examples, packaging), tokenizer, MAX_CALIBRATION_TOKENS)
    if len(packed) > MAX_CALIBRATION_ROWS:
        raise BuildFailed(
            f"The calibration data fill {len(packed)} rows of {MAX_CALIBRATION_TOKENS} tokens; "
            f"{MAX_CALIBRATION_ROWS} are enough. Give fewer conversations with --calibration."
        )
    texts, tokens = zip(*packed, strict=True)
    return CalibrationRows(texts, tokens)


def _rendered(examples: Sequence[Example], packaging: Packaging) -> list[str]:
    """Each conversation with its verdict and the end token, as text."""
    tokenizer = packaging.tokenizer.decode()
    prompt = Prompt(packaging.template, tokenizer)
    tokens = Tokenizer.from_str(tokenizer)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    rendering = environment.from_string(packaging.template)
    end = tokens.id_to_token(packaging.end_ids[0])
    if end is None:
        raise BuildFailed(
            f"The tokenizer has no token {packaging.end_ids[0]}, the checkpoint's end token. Fetch "
            "the checkpoint again."
        )
    found = []
    for example in examples:
        try:
            read = prompt.ids(example.messages)
        except SlotInvalid as error:
            raise BuildFailed(f"Calibration row {example.id}: {error}") from error
        turns = [asdict(message) for message in example.messages]
        rendered: str = rendering.render(messages=turns, add_generation_prompt=True)
        if tokens.encode(rendered, add_special_tokens=False).ids != read:
            raise BuildFailed(
                f"Calibration row {example.id} spells a special token, which quantize.py would "
                "encode as that token. Remove the row."
            )
        found.append(f"{rendered}{_verdict(example)}{end}")
    return found


def _verdict(example: Example) -> str:
    responds = example.mode == Mode.RESPONSE
    if example.severity is None or (responds and example.refusal is None):
        raise BuildFailed(
            f"Calibration row {example.id} has no severity"
            f"{' or no refusal' if responds else ''}: the model is calibrated on the "
            "verdicts that it writes. Label the row, or remove it."
        )
    return write(Verdict(example.severity, example.categories or (), example.refusal))
