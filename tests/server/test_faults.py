"""Engines that fail: a documented status, a server that stays up, a next request that succeeds."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from guard_core.engine.client import STREAMS
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.policy import Policy
from guard_server.tuning import Tuning
from tests.server.conftest import TinyServe
from tests.support.gateway import Client, ask, gateway, reason, rich_status
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine, until

pytestmark = pytest.mark.slow

Agree = Callable[[Asked], Answer]
Code = grpc.StatusCode


async def refused(client: Client) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.judge("Q")
    return caught.value.code(), reason(rich_status(caught.value))


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("Executor failed process requestId 7 due to ...", Code.INTERNAL, "ENGINE_FAILED"),
        ("The model failed: MemoryError", Code.INTERNAL, "ENGINE_FAILED"),
        ("Maximum queue size of 8 has been reached", Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        ("Exceeds maximum queue size", Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        ("Request for unknown model: 'x' is not found", Code.UNAVAILABLE, "UNAVAILABLE"),
        ("Server is stopping, scheduler for model has ...", Code.UNAVAILABLE, "UNAVAILABLE"),
        ("The engine ended before the request did.", Code.UNAVAILABLE, "UNAVAILABLE"),
    ],
)
async def test_an_error_of_the_engine_has_its_status(
    tiny_serve: TinyServe, agree: Agree, text: str, code: grpc.StatusCode, kind: str
) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda asked: text if not asked.stop else ()
        assert await refused(client) == (code, kind)
        engine.answer = agree
        await client.until_serving()
        assert await client.judge("Q")


async def test_an_engine_that_dies_in_mid_request(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: None
        waiting = asyncio.create_task(refused(client))
        await until(lambda: bool(engine.asked))
        await engine.stop()
        assert await waiting == (Code.UNAVAILABLE, "UNAVAILABLE")
        await client.until_serving(wanted=False)
        assert (await refused(client))[0] is Code.UNAVAILABLE
        engine.answer = agree
        await engine.start()
        await client.until_serving()
        assert await client.judge("Q")


async def test_an_engine_that_no_longer_answers_is_given_up_until_it_does(
    tiny_serve: TinyServe,
) -> None:
    async with tiny_serve(tuning=Tuning(probe_s=0.5)) as (client, engine):
        engine.answer = lambda _: None
        assert await refused(client) == (Code.UNAVAILABLE, "UNAVAILABLE")
        assert not await client.serving()


async def test_a_slow_engine_that_answers_others_is_not_given_up(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve(request_timeout_s=6) as (client, engine):
        # It holds back one request, and answers the probe.
        engine.answer = lambda asked: None if asked.draft else agree(asked)
        assert await refused(client) == (Code.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
        assert await client.serving()
        assert engine.asked[-1].stop


async def test_a_callers_deadline_frees_the_engine(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve(max_in_flight=1) as (client, engine):
        engine.answer = lambda _: None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.Moderate(ask("Q"), timeout=0.2)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        await until(lambda: engine.asked[-1].stop)
        engine.answer = agree
        assert await client.judge("Q")


async def test_a_late_answer_is_nobodys(tiny_serve: TinyServe, agree: Agree) -> None:
    """The acknowledgement of a stop has the stopped request's id, and is no output."""
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: None
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.stub.Moderate(ask("Q"), timeout=0.05)
        engine.answer = agree
        assert await client.judge("Q")
        assert len({asked.id for asked in engine.asked if not asked.stop}) == 4


async def test_overload_is_shed_with_a_time_to_retry(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve(max_in_flight=1) as (client, engine):
        engine.answer = lambda _: None
        waiting = [asyncio.create_task(client.judge("Q")) for _ in range(300)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is Code.RESOURCE_EXHAUSTED
            kinds = [item.type_url.rsplit(".")[-1] for item in rich_status(error).details]
            assert kinds == ["ErrorInfo", "RetryInfo"]
        engine.answer = agree
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await client.judge("Q")


async def test_no_service_before_the_first_verdict(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Agree
) -> None:
    async with (
        fake_engine(lambda _: "is not ready") as engine,
        gateway(write_tiny_slot(tmp_path), engine.port) as client,
    ):
        await until(lambda: bool(engine.asked))
        assert not await client.serving()
        assert not await client.serving("")
        engine.answer = agree
        await client.until_serving()
        assert await client.serving("")


async def test_a_warm_up_that_is_no_verdict_is_no_service(
    tmp_path: Path, write_tiny_slot: Callable[..., Path]
) -> None:
    async with (
        fake_engine(lambda asked: asked.draft[1:]) as engine,
        gateway(write_tiny_slot(tmp_path), engine.port) as client,
    ):
        await until(lambda: len(engine.asked) > 2)
        assert not await client.serving()


async def test_a_defect_of_ours_is_an_error_and_never_a_verdict(
    tiny_serve: TinyServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(policy: Policy, verdict: Verdict) -> None:
        raise ZeroDivisionError(policy, verdict)

    async with tiny_serve() as (client, _):
        with monkeypatch.context() as patch:
            patch.setattr(Policy, "action", defect)
            assert await refused(client) == (Code.INTERNAL, "SERVER_FAULT")
        assert await client.judge("Q")


async def test_an_answer_that_cant_be_read_is_not_the_end_of_the_client(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: b"\xff\xff\xff"
        assert (await refused(client))[0] is Code.UNAVAILABLE
        engine.answer = agree
        await client.until_serving()
        assert await client.judge("Q")


async def test_an_answer_that_breaks_the_contract_is_an_error(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: [-1, -1]
        assert await refused(client) == (Code.INTERNAL, "ENGINE_FAILED")
        engine.answer = agree
        assert await client.judge("Q")


async def test_a_dead_stub_is_loaded_again_once(
    tmp_path: Path, tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve(status=tmp_path / "status") as (client, engine):
        dead = "Failed to process the request(s), message: Stub process 'x' is not healthy."

        def answer(asked: Asked) -> Answer:
            return agree(asked) if engine.reloads else dead

        engine.answer = answer
        assert (await refused(client))[0] is Code.UNAVAILABLE
        await until(lambda: bool(engine.reloads))
        await client.until_serving()
        assert engine.reloads == ["unload", "load"]
        # Another failure is no reason to load it again.
        engine.answer = lambda _: "Request for unknown model: 'x' is not found"
        assert (await refused(client))[0] is Code.UNAVAILABLE
        engine.answer = agree
        await client.until_serving()
        assert engine.reloads == ["unload", "load"]


async def test_a_stub_that_died_with_its_triton_is_not_loaded_again(
    tmp_path: Path, tiny_serve: TinyServe, agree: Agree
) -> None:
    """The new Triton loads it: to have that done twice would cost its first verdicts."""
    async with tiny_serve(status=tmp_path / "status") as (client, engine):
        engine.answer = lambda _: "Stub process 'x' is not healthy."
        engine.load_s = 60
        assert (await refused(client))[0] is Code.UNAVAILABLE
        # Before that, a Triton that is back within a millisecond would get the load of this one.
        await until(lambda: engine.loading)
        await engine.stop()
        engine.reloads.clear()
        engine.answer = lambda _: "Request for unknown model: 'x' is not found"
        engine.load_s = 0
        await engine.start()
        await until(lambda: len(engine.asked) > 5)
        engine.answer = agree
        await client.until_serving()
        assert not engine.reloads


async def test_of_two_gateways_that_share_a_lock_one_has_a_dead_stub_loaded_again(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Agree
) -> None:
    slot, status = write_tiny_slot(tmp_path), tmp_path / "status"
    async with (
        fake_engine(agree) as engine,
        gateway(slot, engine.port, status=status) as one,
        gateway(slot, engine.port, status=status) as other,
    ):
        await asyncio.gather(one.until_serving(), other.until_serving())
        dead, engine.load_s = "Stub process 'x' is not healthy.", 0.6
        engine.answer = lambda asked: agree(asked) if "load" in engine.reloads else dead
        found = await asyncio.gather(refused(one), refused(other))
        assert {code for code, _ in found} == {Code.UNAVAILABLE}
        await asyncio.gather(one.until_serving(), other.until_serving())
        assert engine.reloads == ["unload", "load"]


async def test_an_error_of_a_stub_that_was_replaced_meanwhile_is_no_reason_to_load_it_again(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Agree
) -> None:
    """A request from before the load is answered after it: so it was where Triton was slow."""
    slot, status = write_tiny_slot(tmp_path), tmp_path / "status"
    async with (
        fake_engine(agree) as engine,
        gateway(slot, engine.port, status=status) as one,
        gateway(slot, engine.port, status=status) as other,
    ):
        await asyncio.gather(one.until_serving(), other.until_serving())
        dead, asked_before = "Stub process 'x' is not healthy.", len(engine.asked)
        engine.answer = lambda asked: agree(asked) if "load" in engine.reloads else dead
        engine.delay_s = 0.8
        late = asyncio.create_task(refused(other))
        await until(lambda: len(engine.asked) > asked_before)
        engine.delay_s = 0
        assert (await refused(one))[0] is Code.UNAVAILABLE
        await until(lambda: engine.reloads == ["unload", "load"])
        assert not late.done()
        assert (await late)[0] is Code.UNAVAILABLE
        await asyncio.gather(one.until_serving(), other.until_serving())
        assert await other.judge("Q")
        assert engine.reloads == ["unload", "load"]


async def test_a_dead_stub_is_not_loaded_again_where_no_lock_is_shared(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    """Other gateways may be loading it: four of them let no verdict through."""
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: "Stub process 'x' is not healthy."
        assert (await refused(client))[0] is Code.UNAVAILABLE
        await until(lambda: len(engine.asked) > 4)
        engine.answer = agree
        await client.until_serving()
        assert not engine.reloads


async def test_a_lock_that_cannot_be_opened_does_not_end_the_watch(
    tmp_path: Path, tiny_serve: TinyServe, agree: Agree
) -> None:
    status = tmp_path / "status"
    status.mkdir()
    async with tiny_serve(status=status) as (client, engine):
        shutil.rmtree(status)
        status.write_text("a file, so that nothing can be made below it")
        engine.answer = lambda _: "Stub process 'x' is not healthy."
        assert (await refused(client))[0] is Code.UNAVAILABLE
        await until(lambda: len(engine.asked) > 3)  # it is tried again, and not loaded without it
        engine.answer = agree
        await client.until_serving()
        assert not engine.reloads


async def test_a_loss_is_seen_while_a_probe_waits(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: None
        stuck = asyncio.create_task(refused(client))
        await until(lambda: len(engine.asked) == 2)  # the request and the probe
        engine.answer = lambda _: "Stub process 'x' is not healthy."
        assert (await refused(client))[0] is Code.UNAVAILABLE
        assert (await stuck)[0] is Code.UNAVAILABLE
        assert not await client.serving()


async def test_a_probe_that_is_refused_was_answered(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve(request_timeout_s=4) as (client, engine):
        full = "Maximum queue size of 8 has been reached"
        engine.answer = lambda asked: None if asked.draft else full
        stuck = asyncio.create_task(refused(client))
        await until(lambda: len(engine.asked) == 3)  # the request and two probes
        assert await client.serving()
        assert (await stuck)[1] == "DEADLINE_PASSED"
        engine.answer = agree
        assert await client.judge("Q")


async def test_reconnecting_leaves_nothing_behind(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, engine):
        await engine.stop()
        await client.until_serving(wanted=False)
        await asyncio.sleep(0.5)
        before = len(asyncio.all_tasks())
        await asyncio.sleep(3)
        assert len(asyncio.all_tasks()) <= before + STREAMS
