"""Texts without a verdict, and runs that break off: counted, kept apart, and asked again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from guard_eval.datasets import DataSet, load_labelled
from guard_eval.errors import EvaluationFailed
from guard_eval.evaluation import Evaluation, evaluate
from guard_eval.output import write_rows as write_rows_of
from guard_eval.plots import draw
from guard_eval.quality import SetQuality
from guard_eval.service import Service
from qwen3guard_client import AsyncClient
from tests.eval.support import by_sklearn, values, write_rows
from tests.support.gateway import Client, gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until

pytestmark = pytest.mark.slow

Agree = Callable[[Asked], Answer]
Serve = Callable[[Agree], AbstractAsyncContextManager[tuple[Client, FakeEngine]]]
LABELS = ["unsafe", "safe", "unsafe", "safe", "unsafe", "safe"]


@pytest.fixture
def six(tmp_path: Path) -> DataSet:
    """Three unsafe and three safe texts; the first letter says what the engine does with each."""
    rows = [
        {"id": str(n), "prompt": f"{word} {n}", "prompt_label": label}
        for n, (word, label) in enumerate(
            zip(("agree", "agree", "babble", "babble", "fail", "fail"), LABELS, strict=True)
        )
    ]
    [found] = load_labelled([write_rows(tmp_path / "six.jsonl", rows)])
    return found


@pytest.fixture
def by_word(agree: Agree, tiny_prompt: Prompt) -> Agree:
    """Agrees, writes no verdict, or fails, as the text says. Its scores are those of Safe."""
    safe = LabelTokens.of(tiny_prompt).severities["Safe"][0]

    def answer(asked: Asked) -> Answer:
        text = tiny_prompt.decode(asked.prompt)
        if "fail" in text:
            return "Executor failed"
        if asked.logits:
            return [safe]
        if "babble" in text:
            return [*tiny_prompt.encode("Well, that depends."), asked.end_id]
        return agree(asked)

    return answer


@pytest.fixture
def serve(write_tiny_slot: Callable[..., Path], tmp_path: Path) -> Serve:
    """Gives a gateway that is ready and its engine, which has logits."""
    slot = write_tiny_slot(tmp_path)

    @asynccontextmanager
    async def serve(answer: Agree) -> AsyncIterator[tuple[Client, FakeEngine]]:
        async with (
            fake_engine(answer, vocabulary=20_000) as engine,
            gateway(slot, engine.port) as client,
        ):
            await client.until_serving()
            engine.asked.clear()
            yield client, engine

    return serve


def asking(server: Client) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{server.port}", insecure=True)


async def judge(server: Client, data: DataSet, folder: Path, in_flight: int = 4) -> Evaluation:
    async with asking(server) as client:
        return await evaluate([data], client, folder / "answers.jsonl", in_flight=in_flight)


def only(evaluation: Evaluation) -> SetQuality:
    [found] = evaluation.quality()
    return found


async def test_texts_without_a_verdict_count_as_judged_wrongly(
    serve: Serve, by_word: Agree, six: DataSet, tmp_path: Path
) -> None:
    async with serve(by_word) as (client, _):
        evaluation = await judge(client, six, tmp_path)
    found = only(evaluation)
    assert found.verdicts == {"Safe": 2, "Controversial": 0, "Unsafe": 0}
    assert found.without_verdict == {"VERDICT_UNGRAMMATICAL": 2, "ENGINE_FAILED": 2}
    assert evaluation.failed() == {"ENGINE_FAILED": 2}
    assert (found.texts, found.scored) == (6, 2)
    write_rows_of(evaluation, tmp_path / "rows.jsonl")
    for name, reading in (("strict", found.strict), ("loose", found.loose)):
        assert reading
        expected = by_sklearn(six.path, tmp_path, "prompt", name)
        assert values(reading.model_dump()) == pytest.approx(expected, abs=1e-9)
        # Of the safe texts two have no verdict, and of the unsafe ones none was found.
        assert expected["fpr"] == pytest.approx(2 / 3)
        assert expected["recall"] == 0


async def test_only_what_the_model_said_is_kept(
    serve: Serve, by_word: Agree, agree: Agree, six: DataSet, tmp_path: Path
) -> None:
    async with serve(by_word) as (client, engine):
        assert (await judge(client, six, tmp_path)).asked == 6
        engine.answer = lambda asked: [1] if asked.logits else agree(asked)
        again = await judge(client, six, tmp_path)
    assert again.asked == 2
    assert not again.failed()
    assert only(again).without_verdict == {"VERDICT_UNGRAMMATICAL": 2}


async def test_a_slot_without_scores_has_no_figures_by_them(
    agree: Agree, write_tiny_slot: Callable[..., Path], six: DataSet, tmp_path: Path
) -> None:
    manifest = write_tiny_slot(tmp_path) / "manifest.json"
    offers, offers_not = (f'"generation_logits": {flag}' for flag in ("true", "false"))
    manifest.write_text(manifest.read_text().replace(offers, offers_not))
    async with fake_engine(agree) as engine, gateway(manifest.parent, engine.port) as client:
        await client.until_serving()
        evaluation = await judge(client, six, tmp_path)
    found = only(evaluation)
    assert found.scored == 0
    assert found.strict
    assert (found.strict.auprc, found.strict.ece, found.strict.brier) == (None, None, None)
    assert found.strict.f1
    assert draw(evaluation, [found], tmp_path) == []


async def test_a_slot_can_be_named(
    agree: Agree, write_tiny_slot: Callable[..., Path], six: DataSet, tmp_path: Path
) -> None:
    slot, answers = write_tiny_slot(tmp_path), tmp_path / "answers.jsonl"
    async with (
        fake_engine(lambda asked: [1] if asked.logits else agree(asked), 20_000) as engine,
        gateway(slot, engine.port, allow_slot_choice=True) as client,
    ):
        await client.until_serving()
        async with asking(client) as mine:
            found = await evaluate([six], mine, answers, slot="blue", in_flight=2)
            assert found.model.slot == "blue"
            with pytest.raises(EvaluationFailed, match="NOT_FOUND"):
                await evaluate([six], mine, answers, slot="green", in_flight=2)


async def test_a_run_that_breaks_off_goes_on_later(
    serve: Serve, by_word: Agree, six: DataSet, tmp_path: Path
) -> None:
    async with serve(by_word) as (client, engine):
        engine.delay_s = 0.5
        # Two are in flight when the server is asked to stop, beside the greeting before them.
        running = asyncio.create_task(judge(client, six, tmp_path, in_flight=2))
        await until(lambda: len(engine.drafts()) == 3)
    # grpc's client says INTERNAL of its own where it was just writing.
    broken = r"4 texts unanswered \((UNAVAILABLE|INTERNAL).* go on"
    with pytest.raises(EvaluationFailed, match=broken):
        await running
    async with serve(by_word) as (client, _):
        assert (await judge(client, six, tmp_path)).asked == 4


async def test_another_model_is_not_mixed_in(serve: Serve, by_word: Agree, six: DataSet) -> None:
    async with serve(by_word) as (client, _), asking(client) as mine:
        with pytest.raises(EvaluationFailed, match="Two models answered: 0123456789abcdef and"):
            await Service(mine).judge(
                six.examples,
                lambda example, answer: None,
                fingerprint="0123456789abcdef",
                in_flight=2,
                rate=None,
            )
