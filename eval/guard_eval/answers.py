"""Keeps the service's answers in a file, so that an evaluation can go on where it stopped."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from guard_core.schema import Record
from guard_core.verdict.taxonomy import Category, Severity
from guard_eval.errors import EvaluationFailed

UNGRAMMATICAL = "VERDICT_UNGRAMMATICAL"
"""The one error that says something about the model."""


class Answer(Record):
    """A verdict, or the reason why there is none."""

    severity: Severity | None = None
    categories: tuple[Category, ...] = ()
    refusal: bool | None = None
    scores: tuple[float, float, float] | None = None  # of Safe, Controversial, Unsafe
    error: str | None = None


class _Line(Answer):
    fingerprint: str
    conversation: str  # a hash: the file holds no content


class Answers:
    """One model's answers by conversation, as a context manager.

    The file keeps verdicts and ungrammatical outputs; the next run asks again for the others.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._found: dict[str, Answer] = {}

    def __enter__(self) -> Self:
        """Raises EvaluationFailed if the file holds something else."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._path.read_bytes() if self._path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]  # the last line may have been cut off by a kill
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                read = _Line.model_validate_json(line)
            except ValidationError:
                raise EvaluationFailed(
                    f"{self._path}, line {number}, is no answer of an earlier run. "
                    "Remove the file, or choose another folder by --out."
                ) from None
            if read.fingerprint == self._fingerprint:
                kept = read.model_dump(exclude={"fingerprint", "conversation"})
                self._found[read.conversation] = Answer(**kept)
        self._file = self._path.open("ab", buffering=0)
        self._file.truncate(len(whole))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __getitem__(self, conversation: str) -> Answer:
        return self._found[conversation]

    def __contains__(self, conversation: str) -> bool:
        return conversation in self._found

    def add(self, conversation: str, answer: Answer) -> None:
        self._found[conversation] = answer
        if answer.error in (None, UNGRAMMATICAL):
            record = {"fingerprint": self._fingerprint, "conversation": conversation}
            line = json.dumps(record | answer.model_dump(exclude_defaults=True))
            self._file.write(line.encode() + b"\n")
