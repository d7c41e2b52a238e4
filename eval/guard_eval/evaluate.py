"""An evaluation: ask what is not known yet, and say how good the answers are."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from guard_eval.answers import UNGRAMMATICAL, Answer, Answers
from guard_eval.datasets import DataSet, Item, Mode
from guard_eval.quality import ALL, Judged, Quality, quality
from guard_eval.service import Service
from qwen3guard.v1 import types_pb2

MODES: tuple[Mode, ...] = ("prompt", "response")
Progress = Callable[[int, int], None]
"""`progress(done, total)`, in different conversations."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All sets' texts with their answers by one model."""

    model: types_pb2.ModelInfo
    asked: int
    """Different conversations that were sent; the others were answered by an earlier run."""
    seconds: float
    sets: dict[str, list[Judged]]

    def groups(self) -> Iterator[tuple[str, Mode, list[Judged]]]:
        """The texts of each set and of all together, by mode."""
        for mode in MODES:
            of_mode = {
                name: [one for one in judged if one.item.mode == mode]
                for name, judged in self.sets.items()
            }
            filled = {name: judged for name, judged in of_mode.items() if judged}
            yield from ((name, mode, judged) for name, judged in filled.items())
            if len(filled) > 1:
                yield ALL, mode, [one for judged in filled.values() for one in judged]

    def quality(self) -> list[Quality]:
        return [quality(name, mode, judged) for name, mode, judged in self.groups()]

    def failed(self) -> dict[str, int]:
        """Texts that were not judged, by reason. Ungrammatical outputs are not among them."""
        errors = Counter(one.answer.error for judged in self.sets.values() for one in judged)
        return {name: n for name, n in errors.items() if name and name != UNGRAMMATICAL}


async def evaluate(
    sets: Sequence[DataSet],
    channel: grpc.aio.Channel,
    answers_file: Path,
    *,
    slot: str = "",
    in_flight: int,
    rate: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Judges all sets' texts, each conversation once. `rate` is requests a second.

    Raises EvaluationFailed; the answers so far are kept in `answers_file`.
    """
    service = Service(channel, slot)
    model = await service.model()
    conversations = {item.digest: item for one in sets for item in one.items}
    with Answers(answers_file, model.fingerprint) as answers:
        missing = [item for digest, item in conversations.items() if digest not in answers]
        done = len(conversations) - len(missing)
        progress(done, len(conversations))

        def arrived(item: Item, answer: Answer) -> None:
            nonlocal done
            done += 1
            answers.add(item.digest, answer)
            progress(done, len(conversations))

        begun = time.monotonic()
        await service.judge(
            missing, arrived, fingerprint=model.fingerprint, in_flight=in_flight, rate=rate
        )
        seconds = time.monotonic() - begun
        judged = {
            one.name: [Judged(item, answers[item.digest]) for item in one.items] for one in sets
        }
    return Evaluation(model, len(missing), seconds, judged)
