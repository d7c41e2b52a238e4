"""Engines under test, and asking them."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guard_engine import Completion, Engine, EngineError, EngineOptions, Request
from tests.support.models.numpy_qwen3 import NumpyQwen3

OPTIONS: dict[str, int] = {
    "max_input_tokens": 700,
    "max_output_tokens": 64,
    "max_draft_tokens": 24,
    "max_in_flight": 32,
    "kv_blocks": 128,
}
TIMEOUT_S = 60


@dataclass
class Asked:
    """Outcomes of requests, as they come."""

    engine: Engine
    outcomes: dict[str, Completion | EngineError]
    arrived: "queue.SimpleQueue[tuple[str, Completion | EngineError]]"

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.engine.submit(request, partial(self._arrive, request.id))

    def _arrive(self, name: str, outcome: Completion | EngineError) -> None:
        self.arrived.put((name, outcome))

    def wait_for(self, *names: str) -> list[Completion | EngineError]:
        while any(name not in self.outcomes for name in names):
            name, outcome = self.arrived.get(timeout=TIMEOUT_S)
            assert name not in self.outcomes, "answered twice"
            self.outcomes[name] = outcome
        return [self.outcomes[name] for name in names]


def asking(engine: Engine) -> Asked:
    return Asked(engine, {}, queue.SimpleQueue())


def ask(engine: Engine, *requests: Request) -> list[Completion]:
    """All at once; every one must complete."""
    asked = asking(engine)
    asked.submit(*requests)
    outcomes = asked.wait_for(*(request.id for request in requests))
    return [completed(outcome) for outcome in outcomes]


def completed(outcome: Completion | EngineError) -> Completion:
    assert isinstance(outcome, Completion), outcome
    return outcome


def make_engine(xml: Path, **changes: Any) -> Engine:
    return Engine(xml, EngineOptions(**{**OPTIONS, **changes}))


def prompt(seed: int, length: int) -> list[int]:
    """Random token ids, never the end token."""
    ids: list[int] = np.random.default_rng(seed).integers(0, 159, length).tolist()
    return ids


@dataclass
class Tiny:
    """A random two-layer model: its graph in float32, and the reference."""

    xml: Path
    reference: NumpyQwen3

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        return self.reference.greedy(ids, length).output_ids
