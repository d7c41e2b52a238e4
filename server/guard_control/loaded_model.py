"""What a Triton says of its model, asked over a connection of its own each time."""

import contextlib
from enum import Enum, auto

import grpc
from tritonclient.grpc import service_pb2

_SERVICE = "/inference.GRPCInferenceService"
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class ModelState(Enum):
    """As Triton's repository index has it."""

    SERVING = auto()  # loaded, or being loaded
    UNLOADED = auto()
    SILENT = auto()  # Triton does not answer


class LoadedModel:
    """One model of a Triton. Its calls block."""

    def __init__(self, target: str, name: str) -> None:
        """`target`: Triton's gRPC address."""
        self._target = target
        self._name = name

    def state(self, timeout_s: float) -> ModelState:
        try:
            answer = _call(self._target, "RepositoryIndex", b"", timeout_s)
        except grpc.RpcError:
            return ModelState.SILENT
        index = service_pb2.RepositoryIndexResponse.FromString(answer)
        states = {model.state for model in index.models if model.name == self._name}
        return ModelState.SERVING if states & {"READY", "LOADING"} else ModelState.UNLOADED

    def load(self, timeout_s: float) -> None:
        """Has Triton load it. That it could not is seen by its state."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=self._name)
        with contextlib.suppress(grpc.RpcError):
            _call(self._target, "RepositoryModelLoad", request.SerializeToString(), timeout_s)


def _call(target: str, method: str, request: bytes, timeout_s: float) -> bytes:
    """The answer's bytes. Raises grpc.RpcError."""
    with grpc.insecure_channel(target, _OPTIONS) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"{_SERVICE}/{method}"
        )
        return call(request, timeout=timeout_s)
