"""What happens to the real processes: death, load and the end."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import trustme

from qwen3guard.v1 import moderation_pb2
from tests.support.commands import guard
from tests.support.gateway import Client, ask, connect, unread_stream
from tests.support.serving import guard_serve
from tests.support.stand_ins.fake_engine import until

pytestmark = pytest.mark.triton
STUB, TRITON = "triton_python_b", "tritonserver"


async def test_an_engine_that_dies_in_mid_request_comes_back(blue: Path, tmp_path: Path) -> None:
    with guard_serve(blue, tmp_path / "output.txt") as served:
        async with connect(served.port) as client:
            busy = [asyncio.create_task(client.judge("word " * 5000 + str(n))) for n in range(8)]
            await asyncio.sleep(0.3)
            [stub] = [pid for name, pid in served.children().items() if name.startswith(STUB)]
            os.kill(stub, signal.SIGKILL)
            errors = await asyncio.gather(*busy, return_exceptions=True)
            codes = {error.code() for error in errors if isinstance(error, grpc.aio.AioRpcError)}
            assert codes == {grpc.StatusCode.UNAVAILABLE}
            await client.until_serving()
            assert await client.judge("Q")
        assert "the engine's process died" in served.said()


async def test_a_triton_that_dies_is_started_again(blue: Path, tmp_path: Path) -> None:
    with guard_serve(blue, tmp_path / "output.txt") as served:
        async with connect(served.port) as client:
            os.kill(served.children()[TRITON], signal.SIGKILL)
            await client.until_serving(wanted=False)
            await client.until_serving()
            assert await client.judge("Q")
        assert "Triton died" in served.said()


async def test_sigterm_under_load_loses_nothing(blue: Path, tmp_path: Path) -> None:
    with guard_serve(blue, tmp_path / "output.txt", "--log-format", "json") as served:
        children = served.children()
        assert TRITON in children
        async with connect(served.port) as client:
            answered = asyncio.create_task(_load(client))
            await asyncio.sleep(1)
            served.signal(signal.SIGTERM)
            verdicts, ended = await answered
        assert await served.wait() == 0
        events = [json.loads(line)["event"] for line in served.said().splitlines()]
        assert events[-1] == "Stopped."
        assert verdicts > 0
        # Refused by the gateway, not cut off by its end.
        assert [text[:22] for text in ended] == ["The server is stopping"] * 8
        gone = [f"/proc/{pid}" for pid in children.values()]
        await until(lambda: not any(map(os.path.exists, gone)), timeout=5)  # Triton's own end last


async def _load(client: Client) -> tuple[int, list[str]]:
    """Sends until it is refused: how many verdicts came, and how each of 8 callers ended."""
    verdicts = 0
    ended: list[str] = []

    async def streamer() -> None:
        nonlocal verdicts
        permits = asyncio.Semaphore(4)

        async def requests() -> AsyncIterator[moderation_pb2.StreamModerateRequest]:
            for turn in range(10_000):
                await permits.acquire()
                yield moderation_pb2.StreamModerateRequest(id=str(turn), request=ask("say it"))

        try:
            async for answer in client.stub.StreamModerate(requests()):
                assert answer.WhichOneof("outcome") == "response"
                verdicts += 1
                permits.release()
        except grpc.aio.AioRpcError:
            pass  # grpc.aio gives a status of its own if it was just writing

    async def caller(number: int) -> None:
        nonlocal verdicts
        try:
            for turn in range(10_000):
                await client.judge(f"question {number} {turn}")
                verdicts += 1
        except grpc.aio.AioRpcError as error:
            ended.append(str(error.details()))

    await asyncio.gather(*(caller(number) for number in range(8)), streamer())
    return verdicts, ended


async def test_a_second_signal_cuts_off_what_is_in_flight(blue: Path, tmp_path: Path) -> None:
    with guard_serve(blue, tmp_path / "output.txt") as served:
        async with unread_stream(served.port):
            served.signal(signal.SIGTERM)
            await asyncio.sleep(1)
            assert not served.ended()
            served.signal(signal.SIGTERM)
            assert await served.wait() == 1
        assert "Cut off" in served.said()
        assert "Traceback" not in served.said()


async def test_mutual_tls_from_the_command_line(blue: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    server, caller = authority.issue_cert("localhost"), authority.issue_cert("a@example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issued in (("server", server), ("caller", caller)):
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    ca, mine, theirs = (str(tmp_path / f"{name}.pem") for name in ("ca", "server", "caller"))
    tls = ["--tls-cert", mine, "--tls-key", mine, "--tls-client-ca", ca]
    with guard_serve(blue, tmp_path / "output.txt", *tls) as up:
        assert "mutual TLS" in up.said()
        ask_it = ["moderate", "How do plants grow?", "--target", f"localhost:{up.port}"]
        anonymous = [*ask_it, "--tls-ca", ca]
        named = [*anonymous, "--tls-cert", theirs, "--tls-key", theirs]
        assert (await asyncio.to_thread(guard, *named)).returncode == 0
        assert (await asyncio.to_thread(guard, *anonymous)).returncode == 1
        plain = await asyncio.to_thread(guard, *ask_it)
        assert plain.returncode == 1
        assert (
            f"localhost:{up.port} speaks TLS only: name its authorities by --tls-ca."
            in plain.stderr
        )
        data = tmp_path / "own.jsonl"
        data.write_text('{"id": "a", "prompt": "How do plants grow?", "prompt_label": "safe"}\n')
        evaluate = ["eval", str(data), "--out", str(tmp_path / "eval"), *named[2:]]
        assert (await asyncio.to_thread(guard, *evaluate)).returncode == 0
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(mine)
        up.signal(signal.SIGHUP)
        await until(lambda: "certificates renewed" in up.said())
        assert "SIGHUP: the gateway reads its certificates again" in up.said()
        assert (await asyncio.to_thread(guard, *named)).returncode == 0
