"""What a slot says of itself: `manifest.json`, written by `guard build`, read by the gateway.

The gateway knows no engine by name. What an engine can do stands here, and so do the hashes of
the files that the gateway reads beside it (template and tokenizer) and of the engine's own.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from guard_core.errors import SlotInvalid
from guard_core.schema import Record, first_problem

FILE_NAME = "manifest.json"
_MOST_NAMED = 10  # slots, where one is not found
TEMPLATE = "chat_template.jinja"
TOKENIZER = "tokenizer.json"


class Source(Record):
    """Where the checkpoint was downloaded from."""

    hub_id: str = Field(description="org/name")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="The commit, never a branch.")


class Model(Record):
    """The checkpoint: its name as replies carry it, and the hash of each of its files."""

    name: str = Field(min_length=1)
    demonstration: bool = Field(description="True for a model that must not moderate real traffic.")
    checkpoint: dict[str, str] = Field(description="File name -> SHA-256, hexadecimal.")
    source: Source | None = Field(default=None, description="None for a plain directory.")


class Gpu(Record):
    """The GPU that an engine was built on: it loads on others of that compute capability only."""

    name: str
    compute_capability: str = Field(pattern=r"^[0-9]+\.[0-9]+$")


class BuiltEngine(Record):
    """What runs the checkpoint."""

    kind: Literal["openvino", "tensorrt-llm", "null"]  # null: for measuring the gateway
    version: str
    tensorrt: str | None = Field(default=None, description="TensorRT's version; None on a CPU.")
    gpu: Gpu | None = Field(default=None, description="None on a CPU.")
    kv_cache: Literal["fp8", "bf16"] | None = Field(
        default=None, description="Its format; None where the engine chooses."
    )
    weights: Literal["f32", "int8", "int8-g128", "fp8", "w8a8", "w8a16", "bf16"]
    triton_model: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Its name in Triton.")

    @model_validator(mode="after")
    def _a_gpu_engine_says_where_it_loads(self) -> Self:
        if self.kind == "tensorrt-llm" and None in (self.tensorrt, self.gpu, self.kv_cache):
            raise ValueError("a tensorrt-llm engine needs tensorrt, gpu and kv_cache")
        return self

    @property
    def summary(self) -> str:
        """Such as "openvino 2026.4.1, int8"."""
        return f"{self.kind} {self.version}, {self.weights}"


class Limits(Record):
    """What one request and the whole engine can take."""

    max_input_tokens: int = Field(gt=0, description="Prompt and draft together.")
    max_output_tokens: int = Field(gt=0)
    max_draft_tokens: int = Field(ge=0, description="0: no draft; plain greedy decoding.")
    max_in_flight: int = Field(gt=0, description="Requests that the engine works on at once.")
    kv_block_tokens: int = Field(gt=0, description="Tokens in one reusable block of KV cache.")

    @model_validator(mode="after")
    def _a_verdict_fits_after_any_draft(self) -> Self:
        if self.max_output_tokens <= self.max_draft_tokens:
            raise ValueError("max_output_tokens must be greater than max_draft_tokens")
        return self


class Tokens(Record):
    """Token ids with a meaning of their own."""

    end_ids: tuple[int, ...] = Field(min_length=1, description="The first is sent as `end_id`.")


# What a file of the slot must still be. A docstring would go into the JSON schema.
class File(Record):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class Manifest(Record):
    """Everything that decides a verdict. Two slots with one fingerprint give the same verdicts."""

    schema_version: Literal[1] = 1
    model: Model
    engine: BuiltEngine
    limits: Limits
    tokens: Tokens
    generation_logits: bool = Field(description="The engine returns logits: scores can be had.")
    draft_logits: bool = Field(
        default=False,
        description="So do its answers to drafts, a row for each token: scores of a beginning cost "
        "no engine call of their own.",
    )
    files: dict[str, File] = Field(description="Path below the slot -> hash and size.")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all of the manifest."""
        fields = self.model_dump(mode="json")
        if not self.draft_logits:
            del fields["draft_logits"]  # so slots that were built before it keep their fingerprint
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def served_fingerprint(self) -> str:
        """The same without config.pbtxt, which holds it: what a Triton says that it serves."""
        config = f"{self.engine.triton_model}/config.pbtxt"
        files = {name: file for name, file in self.files.items() if name != config}
        return self.model_copy(update={"files": files}).fingerprint

    @classmethod
    def load(cls, slot: Path) -> Self:
        """Reads `slot`/manifest.json. Raises SlotInvalid, saying what to do."""
        path = slot / FILE_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise SlotInvalid(
                f"{path} does not exist{_others(slot)}. Run `guard build` to make the slot."
            ) from None
        except OSError as error:
            raise SlotInvalid(
                f"{path} can't be read: {error.strerror}. Make it readable, or name another slot."
            ) from None
        except ValidationError as error:
            raise SlotInvalid(
                f"{path}: {first_problem(error)}. Build the slot again with `guard build`."
            ) from None

    def save(self, slot: Path) -> None:
        (slot / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n")

    def check(self, slot: Path, *names: str) -> None:
        """Compares files below `slot` with their hashes: those named, or all.

        Raises SlotInvalid for the first file that is missing or differs.
        """
        for name in names or self.files:
            expected = self.files.get(name)
            if expected is None:
                raise SlotInvalid(f"{slot / FILE_NAME} does not list {name}. Build the slot again.")
            try:
                found = describe(slot / name)
            except OSError as error:
                raise SlotInvalid(
                    f"{slot / name} can't be read: {error.strerror}. Make it readable."
                ) from None
            if found != expected:
                raise SlotInvalid(
                    f"{slot / name} is not the file that the slot was built with. "
                    "Build the slot again with `guard build`."
                )


def _others(slot: Path) -> str:
    """The slots beside one that is not there: its name may be mistyped."""
    found = sorted(path.parent.name for path in slot.absolute().parent.glob(f"*/{FILE_NAME}"))
    return f"; beside it there are: {', '.join(found[:_MOST_NAMED])}" if found else ""


def describe(path: Path) -> File | None:
    """Hash and size of a file; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(sha256=digest, size=path.stat().st_size)
