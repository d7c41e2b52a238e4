"""The Python clients' runner, `runner.py sync|aio`; the plan's path is in GUARD_CONFORMANCE."""

import asyncio
import base64
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1.moderation_pb2 import ModerateRequest
from qwen3guard_client import Action, AsyncClient, Client, GuardError, LiveEvent, Outcome, request

Case = dict[str, Any]
PLAN = json.loads(Path(os.environ["GUARD_CONFORMANCE"]).read_text(encoding="utf-8"))


def connection(case: Case) -> dict[str, Any]:
    given = {"metadata": list(case["metadata"].items()), "key": case["key"] or None}
    if not case["tls"]:
        return {"insecure": True, **given}
    credentials = grpc.ssl_channel_credentials(Path(PLAN["authority"]).read_bytes())
    if case["token_kib"]:
        token = grpc.access_token_call_credentials("x" * case["token_kib"] * 1024)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return {"credentials": credentials, **given}


def sync(case: Case, target: str, requests: list[ModerateRequest]) -> list[Outcome]:
    with Client(target, **connection(case)) as client:
        match case["call"]:
            case "moderate":
                return [Outcome(0, client.moderate(requests[0], timeout=case["timeout_s"]))]
            case "batch":
                return client.batch(requests, timeout=case["timeout_s"])
        outcomes = []
        stream = client.stream(late(case, requests), timeout=case["item_timeout_s"] or None)
        for outcome in stream:
            outcomes.append(outcome)
            if len(outcomes) == case["leave_after"]:
                stream.close()
                break
        return outcomes


def sync_live(case: Case, target: str, events: list[LiveEvent]) -> None:
    """Adds the events as they come. Each text comes after the event of the one before."""
    next_text = threading.Semaphore()

    def texts() -> Iterator[str]:
        for text in case["texts"]:
            next_text.acquire()
            yield text
        next_text.acquire()

    with Client(target, **connection(case)) as client:
        for event in client.live(ParseDict(case["start"], pb.LiveStart()), texts()):
            events.append(event)
            next_text.release()


async def aio_live(case: Case, target: str, events: list[LiveEvent]) -> None:
    next_text = asyncio.Semaphore()

    async def texts() -> AsyncIterator[str]:
        for text in case["texts"]:
            await next_text.acquire()
            yield text
        await next_text.acquire()

    async with AsyncClient(target, **connection(case)) as client:
        async for event in client.live(ParseDict(case["start"], pb.LiveStart()), texts()):
            events.append(event)
            next_text.release()


def late(case: Case, requests: list[ModerateRequest]) -> Iterator[ModerateRequest]:
    """The requests, the last one after the time in which the stream is quiet."""
    for number, asked in enumerate(requests, 1):
        time.sleep(case["quiet_s"] if number == len(requests) else 0)
        yield asked


async def aio_late(case: Case, requests: list[ModerateRequest]) -> AsyncIterator[ModerateRequest]:
    for number, asked in enumerate(requests, 1):
        await asyncio.sleep(case["quiet_s"] if number == len(requests) else 0)
        yield asked


async def aio(case: Case, target: str, requests: list[ModerateRequest]) -> list[Outcome]:
    async with AsyncClient(target, **connection(case)) as client:
        match case["call"]:
            case "moderate":
                call = client.moderate(requests[0], timeout=case["timeout_s"])
                reply = await asyncio.wait_for(call, case["cancel_after_s"] or None)
                return [Outcome(0, reply)]
            case "batch":
                return await client.batch(requests, timeout=case["timeout_s"])
        outcomes = []
        stream = client.stream(aio_late(case, requests), timeout=case["item_timeout_s"] or None)
        async for outcome in stream:
            outcomes.append(outcome)
            if len(outcomes) == case["leave_after"]:
                await stream.aclose()
                break
        return outcomes


Live = Callable[[Case, str, list[LiveEvent]], Awaitable[None]]
Call = Callable[[Case, str, list[ModerateRequest]], Awaitable[list[Outcome]]]


def read(asked: Any) -> ModerateRequest:
    """A request in JSON, its wire bytes in base64, or a chat program's messages."""
    if isinstance(asked, str):
        return ModerateRequest.FromString(base64.b64decode(asked))
    if isinstance(asked, list):
        return request(conversation=asked)
    return ParseDict(asked, ModerateRequest())


async def run(case: Case, target: str, call: Call, live: Live) -> None:
    outcomes: list[Outcome] = []
    events: list[LiveEvent] = []
    try:
        if case["call"] == "live":
            await live(case, target, events)
        else:
            outcomes = await call(case, target, [read(asked) for asked in case["requests"]])
        ended = None
    except GuardError as error:
        ended = described(error)
    except TimeoutError:
        ended = {"code": "CANCELLED"}
    check("ends", case["ends"], ended)
    if case["call"] == "live":
        came = [{"text": event.text, "reply": MessageToDict(event.reply)} for event in events]
        assert len(came) == len(case["expect"]), f"{len(came)} events: {came}"
        for number, (expected, event) in enumerate(zip(case["expect"], came, strict=True)):
            check(str(number), expected, event)
        return
    order = [outcome.index for outcome in outcomes]
    assert order[: len(case["order"])] == case["order"], f"came in the order {order}"
    if case["leave_after"]:
        return
    assert len(outcomes) == len(case["expect"]), f"{len(outcomes)} outcomes"
    by_index = sorted(outcomes, key=lambda outcome: outcome.index)
    for number, (expected, outcome) in enumerate(zip(case["expect"], by_index, strict=True)):
        if outcome.error:
            got: dict[str, Any] = {"error": described(outcome.error)}
        else:
            reply = outcome.result()
            got = {"response": MessageToDict(reply), "printed": Action.Name(reply.action)}
        check(str(number), expected, got)


def described(error: GuardError) -> dict[str, Any]:
    assert (error.status.code, error.status.message) == (error.code.value[0], str(error))
    return {
        "code": error.code.name,
        "reason": error.reason,
        "fields": [violation.field for violation in error.violations],
        "retry": error.retry_after is not None,
        "says": str(error),
    }


def check(at: str, expected: Any, got: Any) -> None:
    """Compares what is expected, which is a part: null is absent, "*" anything, "a|b" either."""
    if isinstance(expected, dict):
        assert isinstance(got, dict), f"{at}: got {got}"
        for key, value in expected.items():
            if key == "says":
                assert value in got[key], f"{at}: says {got[key]}"
            else:
                check(f"{at}.{key}", value, got.get(key))
    elif isinstance(expected, str) and "|" in expected:
        assert got in expected.split("|"), f"{at}: expected {expected}, got {got}"
    elif expected == "*":
        assert got is not None, f"{at}: is absent"
    else:
        assert got == expected, f"{at}: expected {expected}, got {got}"


async def main(kind: str) -> int:
    async def threads(case: Case, target: str, requests: list[ModerateRequest]) -> list[Outcome]:
        return await asyncio.to_thread(sync, case, target, requests)

    async def thread_live(case: Case, target: str, events: list[LiveEvent]) -> None:
        await asyncio.to_thread(sync_live, case, target, events)

    calls = (aio, aio_live) if kind == "aio" else (threads, thread_live)
    passed = []
    for case in PLAN["cases"]:
        if kind == "sync" and case["cancel_after_s"]:
            print(f"skip  {case['name']}: a thread can't be cancelled")
            continue
        try:
            await run(case, PLAN["servers"][case["server"]], *calls)
        except Exception:
            print(f"FAIL  {case['name']}\n{traceback.format_exc()}")
        else:
            passed.append(case["name"])
            print(f"ok    {case['name']}", flush=True)
    Path(PLAN["passed"]).write_text(json.dumps(passed))  # noqa: ASYNC240
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
