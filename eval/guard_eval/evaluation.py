"""Runs an evaluation: sends the texts that have no kept answer, and collects all answers."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard_core.conversation import Mode
from guard_eval.answers import UNGRAMMATICAL, Answer, Answers
from guard_eval.datasets import DataSet
from guard_eval.quality import ALL, JudgedText, SetQuality, quality
from guard_eval.rows import Example
from guard_eval.service import Service
from qwen3guard.v1 import types_pb2
from qwen3guard_client import AsyncClient

Progress = Callable[[int, int], None]
"""`progress(done, total)`, in different conversations."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All sets' texts with one model's answers."""

    model: types_pb2.ModelInfo
    asked: int
    """Different conversations sent; answers to the others were kept from an earlier run."""
    seconds: float
    sets: dict[str, list[JudgedText]]

    def groups(self) -> Iterator[tuple[str, Mode, list[JudgedText]]]:
        """The texts of each set and of all together, by mode."""
        for mode in Mode:
            of_mode = {
                name: [one for one in judged if one.example.mode == mode]
                for name, judged in self.sets.items()
            }
            filled = {name: judged for name, judged in of_mode.items() if judged}
            yield from ((name, mode, judged) for name, judged in filled.items())
            if len(filled) > 1:
                yield ALL, mode, [one for judged in filled.values() for one in judged]

    def quality(self) -> list[SetQuality]:
        return [quality(name, mode, judged) for name, mode, judged in self.groups()]

    def failed(self) -> dict[str, int]:
        """Texts that were not judged, by reason. Ungrammatical outputs are not among them."""
        errors = Counter(one.answer.error for judged in self.sets.values() for one in judged)
        return {name: n for name, n in errors.items() if name and name != UNGRAMMATICAL}


async def evaluate(
    sets: Sequence[DataSet],
    client: AsyncClient,
    answers_file: Path,
    *,
    slot: str = "",
    in_flight: int,
    rate: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Judges all sets' texts, each conversation once. `rate` limits requests per second.

    Raises EvaluationFailed; the answers so far are kept in `answers_file`.
    """
    service = Service(client, slot)
    model = await service.model()
    conversations = {example.digest: example for one in sets for example in one.examples}
    with Answers(answers_file, model.fingerprint) as answers:
        missing = [one for digest, one in conversations.items() if digest not in answers]
        done = len(conversations) - len(missing)
        progress(done, len(conversations))

        def arrived(example: Example, answer: Answer) -> None:
            nonlocal done
            done += 1
            answers.add(example.digest, answer)
            progress(done, len(conversations))

        begun = time.monotonic()
        await service.judge(
            missing, arrived, fingerprint=model.fingerprint, in_flight=in_flight, rate=rate
        )
        seconds = time.monotonic() - begun
        judged = {
            one.name: [JudgedText(example, answers[example.digest]) for example in one.examples]
            for one in sets
        }
    return Evaluation(model, len(missing), seconds, judged)
