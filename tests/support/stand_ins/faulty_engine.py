"""A Triton in between, which puts one fault into what an engine is asked or answers.

All else is the real Triton's: the requests and messages are passed on as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from tests.support.ports import free_port

_SERVICE = "inference.GRPCInferenceService"
_LIMIT = [("grpc.max_receive_message_length", 1 << 26), ("grpc.max_send_message_length", 1 << 26)]
_DTYPES = {"INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "BOOL": "?"}


class Tensors:
    """Those of a request or an answer, by name; what is assigned is sent."""

    def __init__(self, tensors: Any, raw: Any) -> None:
        self._tensors, self._raw = tensors, raw

    def __contains__(self, name: str) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> list[Any]:
        at = self._names().index(name)
        values: list[Any] = np.frombuffer(
            self._raw[at], _DTYPES[self._tensors[at].datatype]
        ).tolist()
        return values

    def get(self, name: str) -> list[Any] | None:
        return self[name] if name in self._names() else None

    def __setitem__(self, name: str, values: list[Any]) -> None:
        tensor = self._tensors[at := self._names().index(name)]
        if len(values) != prod(tensor.shape):
            tensor.shape[-1] = len(values)
        self._raw[at] = np.array(values, _DTYPES[tensor.datatype]).tobytes()

    def retype(self, name: str, datatype: str) -> None:
        """The same bytes, as another type of that size."""
        self._tensors[self._names().index(name)].datatype = datatype

    def remove(self, name: str) -> None:
        at = self._names().index(name)
        del self._tensors[at], self._raw[at]

    def _names(self) -> list[str]:
        return [tensor.name for tensor in self._tensors]


@dataclass
class Exchange:
    """A message on its way back, and the request that it answers."""

    message: service_pb2.ModelStreamInferResponse
    request: service_pb2.ModelInferRequest
    beside: list[service_pb2.ModelInferRequest]  # all requests of the same stream
    stopped: bool  # the request's id was also sent with `stop`
    repeated: bool  # the same was asked before

    @property
    def outputs(self) -> Tensors:
        response = self.message.infer_response
        return Tensors(response.outputs, response.raw_output_contents)

    @property
    def inputs(self) -> Tensors:
        return inputs(self.request)

    @property
    def draft(self) -> list[int]:
        return self.inputs.get("draft_input_ids") or []

    @property
    def ids(self) -> list[int] | None:
        """The tokens; None for an error or an acknowledgement."""
        return self.outputs.get("output_ids")

    @property
    def is_empty(self) -> bool:
        """Whether it acknowledges a `stop`."""
        return self.ids is None and not self.message.error_message

    def answer(self, ids: list[int]) -> None:
        """Returns these tokens instead, also instead of an error."""
        response = self.message.infer_response
        if self.ids is None:
            self.message.error_message = ""
            response.id = self.request.id
            for name in ("output_ids", "sequence_length"):
                response.outputs.add(name=name, datatype="INT32", shape=[1, 1])
                response.raw_output_contents.append(b"")
        self.outputs["output_ids"] = ids
        self.outputs["sequence_length"] = [len(ids)]

    def fail(self, error: str) -> None:
        """Returns an error instead."""
        self.message.ClearField("infer_response")
        self.message.infer_response.id = self.request.id
        self.message.error_message = error


@dataclass(frozen=True)
class Fault:
    """`ask` changes the tensors of a request; `reply` an answer, and False leaves it out."""

    ask: Callable[[Tensors], None] = lambda inputs: None
    reply: Callable[[Exchange], bool | None] = lambda exchange: None

    @property
    def name(self) -> str:
        names = (self.ask.__name__, self.reply.__name__)
        return next(name for name in names if name != "<lambda>")


def inputs(request: service_pb2.ModelInferRequest) -> Tensors:
    return Tensors(request.inputs, request.raw_input_contents)


@contextmanager
def faulty(target: str, fault: Fault) -> Iterator[str]:
    """The address of a Triton like the one at `target`, but for the fault."""
    with (
        grpc.insecure_channel(target, _LIMIT) as channel,
        ThreadPoolExecutor() as threads,
    ):
        upstream: Any = channel.stream_stream(
            f"/{_SERVICE}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        ready: Any = channel.unary_unary(f"/{_SERVICE}/ModelReady")
        before: Counter[bytes] = Counter()

        def serve(requests: Iterator[bytes], _: object) -> Iterator[bytes]:
            # All are read first, so that what is stopped is known when the first answer comes.
            asked: dict[str, service_pb2.ModelInferRequest] = {}
            stopped: set[str] = set()
            changed: list[bytes] = []
            for encoded in requests:
                request = service_pb2.ModelInferRequest.FromString(encoded)
                if "stop" in inputs(request):
                    stopped.add(request.id)
                    asked.setdefault(request.id, request)
                else:
                    asked[request.id] = service_pb2.ModelInferRequest.FromString(encoded)
                    fault.ask(inputs(request))
                changed.append(request.SerializeToString())

            repeated = {name: before[_content(request)] > 0 for name, request in asked.items()}
            before.update(map(_content, asked.values()))
            for message in upstream(iter(changed)):
                name = message.infer_response.id
                exchange = Exchange(
                    *(message, asked[name], list(asked.values())),
                    stopped=name in stopped,
                    repeated=repeated[name],
                )
                if fault.reply(exchange) is not False:
                    yield message.SerializeToString()

        server = grpc.server(threads, options=_LIMIT)
        handlers: Any = {
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(serve),
            "ModelReady": grpc.unary_unary_rpc_method_handler(lambda asked, _: ready(asked)),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        address = f"127.0.0.1:{free_port()}"
        server.add_insecure_port(address)
        server.start()
        try:
            yield address
        finally:
            server.stop(None).wait()


def _content(request: service_pb2.ModelInferRequest) -> bytes:
    """All but the id."""
    copy = service_pb2.ModelInferRequest()
    copy.CopyFrom(request)
    copy.ClearField("id")
    content: bytes = copy.SerializeToString()
    return content
