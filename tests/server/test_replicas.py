"""A slot of several replicas: shared work, a loss that no caller notices, coming and going."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from guard_core.balancing import outlier
from guard_core.engine.tensors import Generation
from guard_server.routing.health_check import ReplicaState
from qwen3guard.v1 import types_pb2
from tests.support.replicas import Several, WriteSlot, address, several
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, until
from tests.support.two_slots import slots_of

Agree = Callable[[Asked], Answer]
UNHEALTHY = "Failed to process the request(s), message: Stub process 'x' is not healthy."


def drafts(engines: list[FakeEngine]) -> list[int]:
    return [len(engine.drafts()) for engine in engines]


async def judge_all(found: Several, count: int, **fields: str) -> Counter[str]:
    calls = (found.client.judge(f"Question {n}", **fields) for n in range(count))
    replies = await asyncio.gather(*calls)
    return Counter(types_pb2.Severity.Name(reply.verdict.severity) for reply in replies)


async def test_one_gateway_uses_every_replica_and_the_places_of_all(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """With one connection it never used more than one."""
    async with several(tmp_path, write_tiny_slot, agree, queue_per_place=0.01) as found:
        assert found.endpoint.limiter.limit == 3 * 32
        for engine in found.engines:
            engine.answer = lambda _: None
        calls = [asyncio.create_task(found.client.judge(f"Q {n}")) for n in range(96)]
        await until(lambda: sum(drafts(found.engines)) == 96)
        assert drafts(found.engines) == [32, 32, 32]
        for call in calls:
            call.cancel()


async def test_a_growing_chat_stays_where_its_kv_cache_is(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree) as found:
        for chat in range(4):
            before = drafts(found.engines)
            turns = [f"Chat {chat}: how do plants grow?"]
            for turn in range(4):
                assert await found.client.judge(*turns)
                turns += f"They need water, and more of {turn}.", f"What else? {turn}"
            grown = [now - then for now, then in zip(drafts(found.engines), before, strict=True)]
            assert sorted(grown) == [0, 0, 4]


async def test_prompts_and_responses_of_a_chat_are_shared_out_by_themselves(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """Neither finds the other's KV cache: their prompts differ from the first tokens on."""
    async with several(tmp_path, write_tiny_slot, agree) as found:

        async def asked_by(key: str, *contents: str) -> int:
            before = drafts(found.engines)
            await found.client.judge(*contents, routing_key=key)
            after = drafts(found.engines)
            return [now - then for now, then in zip(after, before, strict=True)].index(1)

        keys = [f"chat {number}" for number in range(16)]
        prompts = [await asked_by(key, "Hi") for key in keys]
        responses = [await asked_by(key, "Hi", "Hello!") for key in keys]
        assert sum(one != other for one, other in zip(prompts, responses, strict=True)) > 4


@pytest.mark.parametrize("loss", ["killed", "stub"])
async def test_what_a_lost_replica_had_in_flight_is_answered_by_the_others(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, loss: str
) -> None:
    async with several(tmp_path, write_tiny_slot, agree, status=tmp_path / "status") as found:
        victim, *others = found.engines
        victim.answer = lambda _: None if loss == "killed" else UNHEALTHY
        for other in others:
            other.delay_s = 0.2
        calls = asyncio.create_task(judge_all(found, 30))
        if loss == "killed":
            await until(lambda: len(victim.drafts()) > 3)
            await victim.stop()
        assert await calls == {"SEVERITY_SAFE": 30}
        await until(lambda: not found.replica(victim).ready)
        assert found.replica(victim).stats.retried >= 1
        assert found.endpoint.ready and not found.endpoint.stats.failovers
        if loss == "stub":
            await until(lambda: "load" in victim.reloads)
        assert not any(other.reloads for other in others)
        victim.answer, lost_at = agree, time.monotonic()
        if loss == "killed":
            await victim.start()
        await found.until_ready(*found.engines)
        assert found.replica(victim).load.slow_until > lost_at  # its KV cache may be empty
        await asyncio.sleep(0.3)  # it is looked at again: a loss is no fault that ejects it later
        assert found.replica(victim).ready


async def test_a_replica_that_hangs_costs_its_callers_less_than_two_seconds(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """Its connection stays up, and it answers nothing; the others go on."""
    async with several(tmp_path, write_tiny_slot, agree) as found:
        victim = found.engines[0]
        held = victim.hold = asyncio.Event()
        loop, slowest = asyncio.get_running_loop(), 0.0
        end = loop.time() + 2
        while loop.time() < end:
            begun = loop.time()
            assert await judge_all(found, 6) == {"SEVERITY_SAFE": 6}
            slowest = max(slowest, loop.time() - begun)
        assert slowest < 2
        assert found.replica(victim).stats.ejections == 1
        assert [found.replica(other).stats.ejections for other in found.engines[1:]] == [0, 0]
        held.set()
        await found.until_ready(*found.engines)


async def test_how_long_a_replica_hangs_counts_while_it_is_probed(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """The probe was waited for as long again."""
    async with several(tmp_path, write_tiny_slot, agree) as found:
        victim, loop = found.engines[0], asyncio.get_running_loop()
        found.replica(victim).load.warmed_up(1.2)  # it may be silent for 2.4 s, and is asked at 1.2
        victim.hold, calls = asyncio.Event(), list[asyncio.Task[object]]()
        before, silent_since = len(victim.asked), 0.0
        while found.replica(victim).ready:
            calls.append(asyncio.create_task(found.client.judge(f"Question {len(calls)}")))
            await asyncio.sleep(0.02)
            if not silent_since and len(victim.asked) > before:
                silent_since = loop.time()
        assert 2.2 < loop.time() - silent_since < 3.5  # else 3.6 and more
        await asyncio.gather(*calls)
        assert (
            found.replica(victim).health.reason == "it answers nothing while others of the slot do"
        )


async def test_few_answers_of_others_eject_no_replica_that_answers_a_probe(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """One long answer among few short ones, as on a busy machine."""
    async with several(tmp_path, write_tiny_slot, agree) as found:
        for engine in found.engines:
            engine.answer = lambda asked: None if asked.draft else agree(asked)
        call = asyncio.create_task(found.client.judge("Long"))
        await until(lambda: sum(drafts(found.engines)) == 1)
        await asyncio.sleep(0.3)  # so that it has been looked at
        busy, other, _ = sorted(found.engines, key=lambda one: not one.drafts())
        for _ in range(4):
            await found.replica(other).engine.generate(Generation((1,), 1, max_tokens=1))
        await asyncio.sleep(1)
        assert found.replica(busy).ready
        assert len(busy.asked) > 1
        call.cancel()


async def test_a_replica_that_fails_what_others_answer_is_ejected_and_fails_no_call(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree) as found:
        victim, *others = found.engines
        victim.answer = lambda asked: "CUDA error: unspecified launch failure"
        async with asyncio.timeout(10):
            while found.replica(victim).ready:
                assert await judge_all(found, 6) == {"SEVERITY_SAFE": 6}
        assert "requests in a row failed only here" in found.replica(victim).health.reason
        assert found.replica(victim).stats.retried >= 5
        assert not found.endpoint.stats.failed
        assert [found.replica(other).stats.ejections for other in others] == [0, 0]
        victim.answer = agree
        victim.asked.clear()
        assert await judge_all(found, 12) == {"SEVERITY_SAFE": 12}
        assert not victim.asked  # its engine answers again, and it is out for 30 s


async def test_requests_that_fail_everywhere_eject_no_replica(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree) as found:
        for engine in found.engines:
            engine.answer = lambda asked: "prompt too strange"
        for number in range(12):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await found.client.judge(f"Question {number}", routing_key="one")
            assert caught.value.code() is grpc.StatusCode.INTERNAL
        await asyncio.sleep(0.5)  # until each of them was looked at
        assert len(found.endpoint.replicas.ready) == 3


async def test_a_replica_that_is_far_slower_than_the_others_is_ejected(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growing chats stay with it for their KV cache. What it has in flight is answered there; and
    half of a set stays, however slow.
    """
    monkeypatch.setattr(outlier, "SLOW_S", 0.5)
    async with several(tmp_path, write_tiny_slot, agree) as found:
        one, two, _ = found.engines
        one.delay_s = 0.2
        async with asyncio.timeout(20):
            while found.replica(one).ready:
                turns = ([f"{n}: {'Tell me more. ' * 60}", "I see.", "Go on."] for n in range(30))
                await asyncio.gather(*(found.client.judge(*chat) for chat in turns))
        assert "5 times" in found.replica(one).health.reason
        assert found.replica(one).stats.failed == 0
        two.delay_s = 0.2
        for _ in range(5):
            assert await judge_all(found, 60) == {"SEVERITY_SAFE": 60}
        assert found.replica(two).ready


async def test_replicas_come_and_go_under_load_and_nothing_fails(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree) as found:
        one, two, three = found.engines
        for engine in found.engines:
            engine.delay_s = 0.02
        ended = asyncio.Event()

        async def load() -> int:
            count = 0
            while not ended.is_set():
                assert (await judge_all(found, 8))["SEVERITY_SAFE"] == 8
                count += 8
            return count

        calls = asyncio.create_task(load())
        for engines in ((one,), (two, three), (three,), (one, two, three), (two,)) * 2:
            found.write(*engines)
            await found.until_ready(*engines)
        ended.set()
        assert await calls > 50
        await until(lambda: not found.endpoint.replicas.draining)
        one.asked.clear()
        await judge_all(found, 8)
        assert not one.asked


async def test_the_last_ready_replica_serves_until_another_one_is_ready(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree, count=2) as found:
        one, two = found.engines
        found.write(one)
        await found.until_ready(one)
        held = two.hold = asyncio.Event()
        found.write(two)
        await until(lambda: address(two) in found.endpoint.replicas.replicas)
        assert await judge_all(found, 4) == {"SEVERITY_SAFE": 4}
        held.set()
        await found.until_ready(two)


@pytest.mark.parametrize("fingerprint", ["0" * 16, None])
async def test_a_replica_that_serves_another_slot_is_never_asked(
    tmp_path: Path,
    write_tiny_slot: WriteSlot,
    agree: Agree,
    fingerprint: str | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As in a Deployment that is half rolled out: verdicts of two models would be mixed."""
    async with several(tmp_path, write_tiny_slot, agree) as found:
        other = found.engines[0]
        found.write(*found.engines[1:])
        await found.until_ready(*found.engines[1:])
        await until(lambda: not found.endpoint.replicas.draining)
        other.fingerprint = fingerprint
        other.asked.clear()
        found.write(*found.engines)
        await until(lambda: address(other) in found.endpoint.replicas.replicas)
        await until(lambda: found.replica(other).state is ReplicaState.OUT)
        await judge_all(found, 30)
        assert not other.asked
        said = fingerprint or "without a fingerprint"
        assert said in found.replica(other).health.reason
        assert said in capfd.readouterr().out


async def test_an_engines_queue_lowers_the_limit_of_its_gateways_and_no_queue_raises_it(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """So many gateways together admit no more than the engine takes."""
    async with several(tmp_path, write_tiny_slot, agree, count=2) as found:
        limiter = found.endpoint.limiter
        crowded, quiet = found.engines
        crowded.queue_s, quiet.queue_s = 0.5, 0.005
        async with asyncio.timeout(30):
            while found.replica(crowded).load.limit > 7:
                await judge_all(found, 8)
        assert found.replica(quiet).load.limit == 32
        assert limiter.limit == 32 + int(found.replica(crowded).load.limit)
        crowded.queue_s = 0.005
        low = limiter.limit
        async with asyncio.timeout(30):
            while limiter.limit <= low:
                await judge_all(found, 48)


async def test_a_set_of_which_none_is_ready_is_unavailable(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with several(tmp_path, write_tiny_slot, agree, count=2) as found:
        for engine in found.engines:
            await engine.stop()
        await until(lambda: not found.endpoint.ready)
        assert found.endpoint.stats.ejections == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await slots_of(found.client, "Q", count=1)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
