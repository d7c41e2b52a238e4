"""What a Triton says of its model, asked over a connection of its own each time."""

import contextlib
from collections.abc import Iterator
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
        with self._channel() as channel:
            ask = channel.unary_unary(
                f"{_SERVICE}/RepositoryIndex",
                request_serializer=service_pb2.RepositoryIndexRequest.SerializeToString,
                response_deserializer=service_pb2.RepositoryIndexResponse.FromString,
            )
            try:
                index = ask(service_pb2.RepositoryIndexRequest(), timeout=timeout_s)
            except grpc.RpcError:
                return ModelState.SILENT
        states = {model.state for model in index.models if model.name == self._name}
        return ModelState.SERVING if states & {"READY", "LOADING"} else ModelState.UNLOADED

    def load(self, timeout_s: float) -> None:
        """Has Triton load it. That it could not is seen by its state."""
        with self._channel() as channel:
            call = channel.unary_unary(
                f"{_SERVICE}/RepositoryModelLoad",
                request_serializer=service_pb2.RepositoryModelLoadRequest.SerializeToString,
                response_deserializer=service_pb2.RepositoryModelLoadResponse.FromString,
            )
            request = service_pb2.RepositoryModelLoadRequest(model_name=self._name)
            with contextlib.suppress(grpc.RpcError):
                call(request, timeout=timeout_s)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(self._target, _OPTIONS) as channel:
            yield channel
