"""An engine that fails, stalls, or writes what a test says.

Only for faults, and for forms of TensorRT-LLM's answers that the CPU engine never gives. Everything
else runs against the real one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

# Token ids, the text of an error, a message that is none, or no answer at all.
Answer = Sequence[int] | str | bytes | None


@dataclass
class Asked:
    """A request as the engine saw it."""

    id: str
    prompt: list[int]
    draft: list[int]
    max_tokens: int
    stop: bool
    logits: bool
    top_k: int
    end_id: int
    at: float  # time.monotonic()


@dataclass
class FakeEngine:
    """Answers each request by `answer`, after `delay_s`, in order of arrival.

    `port` is where it listens; `asked` what it was asked.
    """

    answer: Callable[[Asked], Answer]
    vocabulary: int = 0  # each token of the answer has logits, one-hot at that token
    reused_blocks: int = 0  # of the KV cache, for each request
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    callers: list[bytes] = field(default_factory=list)  # each stream's certificate, in PEM
    reloads: list[str] = field(default_factory=list)
    delay_s: float = 0
    load_s: float = 0  # so long it takes to load the model again
    loading: bool = False  # it was asked to
    hold: asyncio.Event | None = None  # until it is set nothing at all is answered: a hang
    fingerprint: str | None = None  # of the slot that its configuration names
    credentials: grpc.ServerCredentials | None = None  # without them it is plain text
    queue_s: float | None = None  # that answers say they waited, before a step of 10 ms
    _server: grpc.aio.Server | None = None

    def drafts(self) -> list[Asked]:
        """What was asked for verdicts with a draft: neither probes nor stops."""
        return [asked for asked in self.asked if asked.draft]

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self._infer,
            request_deserializer=service_pb2.ModelInferRequest.FromString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "inference.GRPCInferenceService",
                    {
                        "ModelStreamInfer": handler,
                        "ModelConfig": grpc.unary_unary_rpc_method_handler(self._config),
                        "RepositoryModelUnload": grpc.unary_unary_rpc_method_handler(self._unload),
                        "RepositoryModelLoad": grpc.unary_unary_rpc_method_handler(self._load),
                    },
                ),
            )
        )
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        await self._server.start()

    async def stop(self) -> None:
        """As a process that dies: streams break off."""
        if self._server is not None:
            await self._server.stop(None)

    async def _config(self, _request: bytes, _context: object) -> bytes:
        answer = service_pb2.ModelConfigResponse()
        if self.fingerprint is not None:
            answer.config.parameters["guard_fingerprint"].string_value = self.fingerprint
        return bytes(answer.SerializeToString())

    async def _unload(self, _request: bytes, _context: object) -> bytes:
        self.reloads.append("unload")
        return b""

    async def _load(self, _request: bytes, _context: object) -> bytes:
        self.loading = True
        await asyncio.sleep(self.load_s)
        self.reloads.append("load")
        return b""

    async def _infer(
        self,
        requests: AsyncIterator[service_pb2.ModelInferRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[bytes]:
        self.callers += context.auth_context().get("x509_pem_cert", ())
        async for request in requests:
            asked = _asked(request)
            self.asked.append(asked)
            if self.hold is not None:
                await self.hold.wait()
            answer: Answer = () if asked.stop else self.answer(asked)
            if answer is not None:
                await asyncio.sleep(max(0, asked.at + self.delay_s - time.monotonic()))
                yield _response(asked, answer, self)


@asynccontextmanager
async def fake_engine(
    answer: Callable[[Asked], Answer], vocabulary: int = 0
) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(answer, vocabulary)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def writes(
    ids: Sequence[int], *, keeps_end: bool = False, end_id: int
) -> Callable[[Asked], Answer]:
    """A greedy model that writes `ids` after any prompt, by the draft rules of TensorRT-LLM.

    `ids` ends with the end token, which no engine's output holds; one that `keeps_end` does.
    """

    def answer(asked: Asked) -> Answer:
        begun = next(
            n for n in range(len(ids), -1, -1) if n == 0 or asked.prompt[-n:] == list(ids[:n])
        )
        rest = list(ids[begun:])
        agreed = 0
        while agreed < min(len(asked.draft), len(rest)) and asked.draft[agreed] == rest[agreed]:
            agreed += 1
        out = rest[: agreed + 1] if asked.draft else rest[: asked.max_tokens]
        return out if keeps_end else [token for token in out if token != end_id]

    return answer


def _asked(request: service_pb2.ModelInferRequest) -> Asked:
    """Reads the tensors by itself: the gateway's own code would not notice its own faults."""
    names = [tensor.name for tensor in request.inputs]
    raw = dict(zip(names, request.raw_input_contents, strict=True))

    def ints(name: str) -> list[int]:
        found: list[int] = np.frombuffer(raw.get(name, b""), "<i4").tolist()
        return found

    def flag(name: str) -> bool:
        return raw.get(name) == b"\x01"

    return Asked(
        id=request.id,
        prompt=ints("input_ids"),
        draft=ints("draft_input_ids"),
        max_tokens=ints("request_output_len")[0],
        stop=flag("stop"),
        logits=flag("return_generation_logits"),
        top_k=(ints("runtime_top_k") or [0])[0],
        end_id=(ints("end_id") or [0])[0],
        at=time.monotonic(),
    )


def _response(asked: Asked, answer: Sequence[int] | str | bytes, engine: FakeEngine) -> bytes:
    if isinstance(answer, bytes):
        return answer
    response = service_pb2.ModelInferResponse(id=asked.id)
    if isinstance(answer, str):
        failed = service_pb2.ModelStreamInferResponse(error_message=answer, infer_response=response)
        return bytes(failed.SerializeToString())

    def add(name: str, datatype: str, values: np.ndarray[Any, Any]) -> None:
        response.outputs.add(name=name, datatype=datatype, shape=list(values.shape))
        response.raw_output_contents.append(values.tobytes())

    add("output_ids", "INT32", np.array([[answer]], "<i4"))
    add("sequence_length", "INT32", np.array([[len(answer)]], "<i4"))
    if engine.reused_blocks:
        add("kv_cache_reused_blocks", "INT32", np.array([[engine.reused_blocks]], "<i4"))
    if engine.queue_s is not None:
        times = np.cumsum([10**9, int(1e9 * engine.queue_s), 10**7])
        for name, at in zip(("arrival", "first_scheduled", "first_token"), times, strict=True):
            add(f"{name}_time_ns", "INT64", np.array([[at]], "<i8"))
    if asked.logits and engine.vocabulary:
        logits = np.zeros((1, 1, len(answer), engine.vocabulary), "<f4")
        logits[0, 0, np.arange(len(answer)), answer] = 1
        add("generation_logits", "FP32", logits)
    done = service_pb2.ModelStreamInferResponse(infer_response=response)
    return bytes(done.SerializeToString())


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Waits for a condition that another task brings about."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)
