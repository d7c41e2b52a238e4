"""What the probe of a Triton's container takes for alive, by a stand-in for Triton."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from guard_control import engine_probe
from tests.support.ports import free_port

pytestmark = pytest.mark.slow
WriteSlot = Callable[..., Path]


def probed(slot: Path, *, answers_others: bool, text: str | None) -> int:
    """The exit code before an engine that answers a question with an error `text`, or not."""
    count, ended = 0, threading.Event()

    def statistics(_request: bytes, _context: object) -> bytes:
        nonlocal count
        count += answers_others
        found = service_pb2.ModelStatisticsResponse()
        found.model_stats.add().inference_stats.success.count = count
        return bytes(found.SerializeToString())

    def infer(_requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        if text is None:
            ended.wait()
        yield bytes(service_pb2.ModelStreamInferResponse(error_message=text).SerializeToString())

    methods: dict[str, Any] = {
        "ModelStatistics": grpc.unary_unary_rpc_method_handler(statistics),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(infer),
    }
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    target = f"127.0.0.1:{free_port()}"
    server.add_insecure_port(target)
    server.start()
    try:
        return engine_probe.main(["--slot", str(slot), "--triton", target])
    finally:
        ended.set()
        server.stop(None).wait()


def test_what_the_probe_takes_for_alive(tmp_path: Path, write_tiny_slot: WriteSlot) -> None:
    slot = write_tiny_slot(tmp_path)
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(probed, slot, answers_others=True, text=None)
        dead = pool.submit(probed, slot, answers_others=False, text=None)
        full = pool.submit(probed, slot, answers_others=False, text="Exceeds maximum queue size")
        gone = pool.submit(probed, slot, answers_others=True, text="Stub process is not healthy.")
        assert (busy.result(), dead.result(), full.result(), gone.result()) == (0, 1, 0, 1)
    assert engine_probe.main(["--slot", str(slot), "--triton", f"127.0.0.1:{free_port()}"]) == 1
    assert engine_probe.main(["--slot", str(tmp_path), "--triton", "127.0.0.1:1"]) == 1
