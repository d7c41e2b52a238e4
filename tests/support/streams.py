"""One ModelStreamInfer stream to a Triton, with tensors as arrays.

Not tritonclient's `async_stream_infer`: it hands on the text of an error without its request's id,
and what happens to one of several requests in flight is what these tests ask.
"""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from guard_core.engine.tensors import PERF_OUTPUTS

_DATATYPES = {"i": "INT32", "b": "BOOL"}
_DTYPES = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
ALL_OUTPUTS = (
    "output_ids",
    "sequence_length",
    "cum_log_probs",
    "output_log_probs",
    "generation_logits",
    *PERF_OUTPUTS,
)
TIMEOUT_S = 30


class Reply:
    """One message of the stream."""

    def __init__(self, message: service_pb2.ModelStreamInferResponse) -> None:
        response = message.infer_response
        self.id: str = response.id
        self.error: str = message.error_message
        self.final: bool = response.parameters["triton_final_response"].bool_param
        self.datatypes = {output.name: output.datatype for output in response.outputs}
        self.outputs = {
            output.name: np.frombuffer(raw, _DTYPES[output.datatype]).reshape(output.shape)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }


class Stream:
    def __init__(self, target: str, model: str) -> None:
        self._model = model
        self._requests: queue.SimpleQueue[service_pb2.ModelInferRequest | None] = (
            queue.SimpleQueue()
        )
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)])
        self._call = self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )(self._outgoing())
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Half-closed, not cancelled: Triton 2.51 may never unload a model after a stream was
        # cancelled just as its last answer went out.
        self._requests.put(None)
        self._reader.join()
        self._channel.close()

    def send(self, request_id: str, outputs: tuple[str, ...] = ALL_OUTPUTS, **inputs: Any) -> None:
        """`inputs`: arrays, or what makes one row of one. The required ones have defaults."""
        given = {"request_output_len": [1], **inputs}
        if "input_ids" in given:
            given.setdefault("input_lengths", [np.shape(given["input_ids"])[-1]])
        request = service_pb2.ModelInferRequest(model_name=self._model, id=request_id)
        for name, values in given.items():
            array = np.asarray(values)
            array = array if array.ndim > 1 else array.reshape(1, -1)
            array = array if array.dtype == bool else array.astype(np.int32)
            request.inputs.add(name=name, datatype=_DATATYPES[array.dtype.kind], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        for name in outputs:
            request.outputs.add(name=name)
        self._requests.put(request)

    def receive(self) -> Reply:
        return self._replies.get(timeout=TIMEOUT_S)

    def ask(self, request_id: str, **inputs: Any) -> Reply:
        """Sends a request and receives the next reply, which must be its own."""
        self.send(request_id, **inputs)
        reply = self.receive()
        assert reply.id == request_id
        return reply

    def cancel(self) -> None:
        self._call.cancel()

    def _outgoing(self) -> Iterator[service_pb2.ModelInferRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for message in self._call:
                self._replies.put(Reply(message))
        except grpc.RpcError:
            pass  # the stream was closed
