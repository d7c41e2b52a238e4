"""The engine writes the tokens that transformers computed for the embedded checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard_engine import Engine, Request, build_graph, save_graph
from tests.support.engines import ask, make_engine

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "tiny-guard"
REFERENCE = ROOT / "tests" / "data" / "tiny_reference.json"


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    document = json.loads(REFERENCE.read_text())
    cases: list[dict[str, Any]] = document if isinstance(document, list) else document["cases"]
    return cases


@pytest.fixture(scope="module")
def tiny_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    xml = tmp_path_factory.mktemp("tiny-guard") / "model.xml"
    save_graph(build_graph(CHECKPOINT, weights="f32"), xml)
    engine = make_engine(xml, max_input_tokens=8192, kv_blocks=1024)
    yield engine
    engine.close()


def test_plain(tiny_guard: Engine, cases: list[dict[str, Any]]) -> None:
    requests = [
        Request(
            case["name"],
            case["input_ids"],
            64,
            end_ids=frozenset(case["output_ids"][-1:]),
            return_log_probs=True,
        )
        for case in cases
    ]
    for case, answer in zip(cases, ask(tiny_guard, *requests), strict=True):
        # The reference has the end token, which the engine never returns.
        assert answer.output_ids == case["output_ids"][:-1], case["name"]
        assert answer.log_probs is not None
        np.testing.assert_allclose(answer.log_probs, case["log_probs"][:-1], atol=1e-3)


def test_drafted(tiny_guard: Engine, cases: list[dict[str, Any]]) -> None:
    """One verdict is every request's draft: some accept all of it, some correct it."""
    draft = cases[0]["output_ids"]
    requests = [
        Request(case["name"], case["input_ids"], 64, draft, frozenset(draft[-1:])) for case in cases
    ]
    for case, answer in zip(cases, ask(tiny_guard, *requests), strict=True):
        expected = case["output_ids"]
        agreed = next(
            (n for n, pair in enumerate(zip(expected, draft, strict=False)) if pair[0] != pair[1]),
            min(len(expected), len(draft)),
        )
        own = expected[: agreed + 1]
        assert answer.output_ids == (own[:-1] if own == expected else own), case["name"]
        assert answer.accepted_draft_tokens == agreed
