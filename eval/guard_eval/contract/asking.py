"""Asks an engine directly, each time over a stream of its own, and keeps all that it answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from struct import calcsize, unpack_from
from uuid import uuid4

import grpc
from tritonclient.grpc import service_pb2

from guard_core.engine.channel import TritonTls, blocking_channel
from guard_core.engine.tensors import (
    PERF_OUTPUTS,
    Generated,
    Generation,
    generated,
    infer_request,
    stop_request,
)

_SERVICE = "/inference.GRPCInferenceService"
_TIMEOUT_S = 300  # a long prompt takes a large model on a busy CPU minutes
_CONNECT_S = 10
_MAX_MESSAGE_BYTES = 64 * 2**20  # logits of a large vocabulary
_FORMS = {"INT32": "<i", "INT64": "<q", "FP32": "<f"}


class EngineUnreachable(Exception):
    """No Triton answers at the address, or it does not serve the model."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One message of a stream: an error, or outputs by name with their types and shapes."""

    id: str
    error: str
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    raw: dict[str, bytes]  # the outputs' values
    generated: Generated | None  # None if the outputs are not those of an answer

    @property
    def ids(self) -> list[int] | str:
        """The tokens; or what came instead, as text."""
        if self.generated is not None:
            return self.generated.ids
        return self.error or f"an answer with the outputs {sorted(self.outputs)}"

    def number(self, name: str) -> float | None:
        """The first value of an output; None if there is none."""
        form = _FORMS.get(self.outputs.get(name, ("", ()))[0])
        data = self.raw.get(name, b"")
        if form is None or len(data) < calcsize(form):
            return None
        value: float = unpack_from(form, data)[0]
        return value


class RawEngine:
    """A Triton model. Use it as a context manager."""

    def __init__(self, target: str, model: str, tls: TritonTls | None = None) -> None:
        self._target, self._model = target, model
        self._channel = blocking_channel(
            target,
            tls,
            [
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._call: grpc.StreamStreamMultiCallable[bytes, service_pb2.ModelStreamInferResponse] = (
            self._channel.stream_stream(
                f"{_SERVICE}/ModelStreamInfer",
                response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
            )
        )
        process = uuid4().hex
        self._ids = (f"contract-{process}-{n}" for n in count())

    def __enter__(self) -> "RawEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def reach(self) -> None:
        """Raises EngineUnreachable unless the model can be asked."""
        ready: grpc.UnaryUnaryMultiCallable[bytes, service_pb2.ModelReadyResponse] = (
            self._channel.unary_unary(
                f"{_SERVICE}/ModelReady",
                response_deserializer=service_pb2.ModelReadyResponse.FromString,
            )
        )
        request = service_pb2.ModelReadyRequest(name=self._model)
        try:
            served = ready(request.SerializeToString(), timeout=_CONNECT_S).ready
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise EngineUnreachable(
                    f"No Triton answers at {self._target} ({error.details()})."
                ) from None
            served = False
        if not served:
            raise EngineUnreachable(
                f"The server at {self._target} does not serve the slot's model {self._model}."
            )

    def ask(self, wanted: Generation, *, log_probs: bool = False) -> RawAnswer:
        """The one answer to a request; an answer with an error if there is none, or another."""
        [answer] = self.ask_together([wanted], log_probs=log_probs)
        return answer

    def ask_together(
        self, wanted: Sequence[Generation], *, log_probs: bool = False
    ) -> list[RawAnswer]:
        """Has all requests in flight at once; their answers are in the order of the requests."""
        ids = [next(self._ids) for _ in wanted]
        requests = [self._request(*each, log_probs) for each in zip(ids, wanted, strict=True)]
        found = list(self._exchange(requests))
        return [_of(request_id, found) for request_id in ids]

    def ask_and_stop(self, wanted: Generation) -> list[RawAnswer]:
        """Sends a request and its stop right after it; gives what comes for both."""
        request_id = next(self._ids)
        stop = stop_request(self._model, request_id)
        found = self._exchange([self._request(request_id, wanted), stop])
        return [answer for answer in found if answer.id == request_id]

    def stop_unknown(self) -> list[RawAnswer]:
        """What comes for the stop of a request that was never sent."""
        return list(self._exchange([stop_request(self._model, next(self._ids))]))

    def _request(self, request_id: str, wanted: Generation, log_probs: bool = False) -> bytes:
        request = infer_request(self._model, request_id, wanted)
        more = service_pb2.ModelInferRequest()  # encoded messages may be joined
        for name in PERF_OUTPUTS.keys() - {"kv_cache_reused_blocks"}:  # which it asks for itself
            more.outputs.add(name=name)
        if log_probs:
            more.inputs.add(name="return_log_probs", datatype="BOOL", shape=[1, 1])
            more.raw_input_contents.append(b"\1")
            more.outputs.add(name="output_log_probs")
        return request + bytes(more.SerializeToString())

    def _exchange(self, requests: Sequence[bytes]) -> Iterator[RawAnswer]:
        try:
            for message in self._call(iter(requests), timeout=_TIMEOUT_S):
                yield _read(message)
        except grpc.RpcError as error:
            yield RawAnswer("", f"The stream broke off: {error.details()}", {}, {}, None)


def _read(message: service_pb2.ModelStreamInferResponse) -> RawAnswer:
    response = message.infer_response
    outputs = {each.name: (each.datatype, tuple(each.shape)) for each in response.outputs}
    raw = dict(zip(outputs, response.raw_output_contents, strict=False))
    error, found = message.error_message, None
    if not error and outputs:
        try:
            found = generated(response)
        except ValueError as broken:
            error = f"The answer is not in the contract's form: {broken}."
    return RawAnswer(response.id, error, outputs, raw, found)


def _of(request_id: str, answers: Sequence[RawAnswer]) -> RawAnswer:
    found = [answer for answer in answers if answer.id == request_id]
    if len(found) == 1:
        return found[0]
    broken = [answer.error for answer in answers if not answer.id and answer.error]
    text = broken[0] if broken else f"{len(found)} answers came to one request."
    return RawAnswer(request_id, text, {}, {}, None)
