"""What a Triton says of its model, asked over a connection of its own each time."""

import contextlib
import uuid
from enum import Enum, auto

import grpc
from tritonclient.grpc import service_pb2

from guard_core.engine.channel import TritonTls, blocking_channel
from guard_core.engine.stream import engine_error
from guard_core.engine.tensors import Generation, infer_request
from guard_core.errors import Unavailable

_SERVICE = "/inference.GRPCInferenceService"
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class ModelState(Enum):
    """As Triton's repository index has it."""

    LOADED = auto()
    LOADING = auto()
    UNLOADED = auto()
    SILENT = auto()  # Triton does not answer


class EngineAnswer(Enum):
    """Of a model that was asked for a token."""

    GIVEN = auto()  # an error is one too
    GONE = auto()  # Triton says that the model, or its process, is not there
    NONE = auto()  # in time


class LoadedModel:
    """One model of a Triton. Its calls block."""

    def __init__(self, target: str, name: str, end_id: int, tls: TritonTls | None = None) -> None:
        """`target`: Triton's gRPC address. `end_id`: a token that its vocabulary has."""
        self._target = target
        self._tls = tls
        self._name = name
        self._end_id = end_id

    def state(self, timeout_s: float) -> ModelState:
        try:
            answer = self._call("RepositoryIndex", b"", timeout_s)
        except grpc.RpcError:
            return ModelState.SILENT
        index = service_pb2.RepositoryIndexResponse.FromString(answer)
        states = {model.state for model in index.models if model.name == self._name}
        if "READY" in states:
            return ModelState.LOADED
        return ModelState.LOADING if "LOADING" in states else ModelState.UNLOADED

    def load(self, timeout_s: float) -> None:
        """Has Triton load it. That it could not is seen by its state."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=self._name)
        with contextlib.suppress(grpc.RpcError):
            self._call("RepositoryModelLoad", request.SerializeToString(), timeout_s)

    def answered(self, timeout_s: float) -> int | None:
        """How many requests of all callers it has answered; None if Triton does not say."""
        request = service_pb2.ModelStatisticsRequest(name=self._name)
        try:
            answer = self._call("ModelStatistics", request.SerializeToString(), timeout_s)
        except grpc.RpcError:
            return None
        found = service_pb2.ModelStatisticsResponse.FromString(answer)
        return sum(int(model.inference_stats.success.count) for model in found.model_stats)

    def infer(self, timeout_s: float) -> EngineAnswer:
        """Asks it for one token."""
        wanted = Generation((self._end_id,), self._end_id, max_tokens=1)
        request = infer_request(self._name, uuid.uuid4().hex, wanted)
        with blocking_channel(self._target, self._tls, _OPTIONS) as channel:
            call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                f"{_SERVICE}/ModelStreamInfer"
            )
            try:
                # Up to the stream's end: Triton 2.51 may never unload a model whose stream was
                # cancelled just as an answer went out.
                answer, *_ = call(iter([request]), timeout=timeout_s)
            except (grpc.RpcError, ValueError):
                return EngineAnswer.NONE
        error = service_pb2.ModelStreamInferResponse.FromString(answer).error_message
        gone = error and isinstance(engine_error(error), Unavailable)
        return EngineAnswer.GONE if gone else EngineAnswer.GIVEN

    def _call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """The answer's bytes. Raises grpc.RpcError."""
        with blocking_channel(self._target, self._tls, _OPTIONS) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                f"{_SERVICE}/{method}"
            )
            return call(request, timeout=timeout_s)
