"""An engine that gives one verdict after a while, in this process: so one clock times both ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from guard_core.conversation import Mode
from guard_core.slot.slot import WARM_UP
from guard_core.slot.slot_files import SlotFiles
from guard_core.verdict.decoder import agreement
from guard_core.verdict.grammar import Verdict, write

_SERVICE = "inference.GRPCInferenceService"


@dataclass
class ScriptedEngine:
    """Answers by the draft rules of the contract."""

    slot: Path
    verdict: Verdict
    """Of every response; prompts are safe."""
    delay_s: float = 0.0
    target: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    answered_at: list[float] = field(default_factory=list)
    """When each answer was given (time.monotonic())."""

    def __post_init__(self) -> None:
        prompt = SlotFiles.load(self.slot).prompt
        warm_up = {mode: tuple(prompt.ids(one)) for mode, one in zip(Mode, WARM_UP, strict=True)}
        self._prompt_mode = warm_up[Mode.PROMPT]
        self._safe = prompt.encode("Safety: Safe\nCategories: None")
        self._ids = prompt.encode(write(self.verdict))

    def answer(self, prompt: list[int], draft: list[int], most: int) -> list[int]:
        """The tokens of an answer."""
        written = self._safe if tuple(prompt) == self._prompt_mode else self._ids
        begun = next(n for n in range(len(written), -1, -1) if not n or prompt[-n:] == written[:n])
        rest = written[begun:]
        return rest[: agreement(rest, draft) + 1] if draft else rest[:most]

    async def infer(
        self, requests: AsyncIterator[service_pb2.ModelInferRequest], context: Any
    ) -> None:
        """ModelStreamInfer."""
        writing = asyncio.Lock()  # of one answer at a time
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                group.create_task(self._one(request, context, writing))

    async def _one(
        self, request: service_pb2.ModelInferRequest, context: Any, writing: asyncio.Lock
    ) -> None:
        names = [tensor.name for tensor in request.inputs]
        raw = dict(zip(names, request.raw_input_contents, strict=True))
        response = service_pb2.ModelInferResponse(id=request.id)
        if "stop" not in raw:
            check = "draft_input_ids" in raw  # else a probe
            self.in_flight += check
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                await asyncio.sleep(self.delay_s)
            finally:
                self.in_flight -= check
            prompt, draft, most = (
                np.frombuffer(raw.get(name, b""), "<i4").tolist()
                for name in ("input_ids", "draft_input_ids", "request_output_len")
            )
            ids = np.array([[self.answer(prompt, draft, most[0])]], "<i4")
            for name, values in (("output_ids", ids), ("sequence_length", np.array([[ids.size]]))):
                response.outputs.add(name=name, datatype="INT32", shape=list(values.shape))
                response.raw_output_contents.append(values.astype("<i4").tobytes())
            self.answered_at.append(time.monotonic())
        done = service_pb2.ModelStreamInferResponse(infer_response=response)
        async with writing:
            await context.write(done.SerializeToString())


@asynccontextmanager
async def scripted_engine(
    slot: Path, verdict: Verdict, delay_s: float = 0.0
) -> AsyncIterator[ScriptedEngine]:
    """The engine of a slot, which listens at `target`."""
    engine = ScriptedEngine(slot, verdict, delay_s)

    async def config(_request: bytes, _context: Any) -> bytes:
        return bytes(service_pb2.ModelConfigResponse().SerializeToString())

    server = grpc.aio.server()
    infer: Any = grpc.stream_stream_rpc_method_handler(
        engine.infer, request_deserializer=service_pb2.ModelInferRequest.FromString
    )
    methods = {
        "ModelStreamInfer": infer,
        "ModelConfig": grpc.unary_unary_rpc_method_handler(config),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, methods)])
    engine.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield engine
    finally:
        await server.stop(None)
