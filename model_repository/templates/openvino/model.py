"""The CPU engine as a Triton model with TensorRT-LLM's tensor contract.

`execute` only queues requests. The engine's thread sends one final response for each:

- the output ids, and the other outputs that the request names;
- an error, if the request is refused or fails. An error never affects another request;
- for `stop`: a response without outputs, which acknowledges it, also if the id is not in flight.
  The stopped request itself gets the error CANCELLED, which can't be mistaken for output.

`pad_id` and the `retention_*` inputs are accepted and have no effect: there is no padding, and the
engine evicts the least recently used blocks first.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # Triton adds its classes before `initialize`

from guard_engine import (
    BadRequest,
    Completion,
    Engine,
    EngineError,
    EngineOptions,
    Request,
    RequestCancelled,
    Usage,
)

_GAUGES_S = 1.0

Inputs = dict[str, np.ndarray[Any, Any]]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        directory = Path(args["model_repository"]) / args["model_version"]
        parameters = json.loads(args["model_config"])["parameters"]
        period_ms = int(parameters["cancellation_check_period_ms"]["string_value"])
        exclude = parameters["exclude_input_in_output"]["string_value"]
        self._exclude_input = exclude == "true"
        options = EngineOptions(**json.loads((directory / "engine.json").read_text()))
        self._engine = Engine(directory / "openvino_model.xml", options)
        self._live: dict[_Sender, str] = {}
        self._gauges = _Gauges(args["model_name"], options.kv_blocks)
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, args=[period_ms / 1000], daemon=True)
        self._poller.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = _Sender(request.get_response_sender())
            try:
                self._accept(request, sender)
            except BadRequest as error:
                sender.fail(str(error), pb_utils.TritonError.INVALID_ARG)
            except EngineError as error:
                sender.fail(str(error))
            except Exception as error:  # no request may end the stub process
                sender.fail(f"The request could not be read: {error!r}")

    def finalize(self) -> None:
        self._closing.set()
        self._poller.join()
        self._engine.close()
        self._gauges.close()

    def _accept(self, request: Any, sender: "_Sender") -> None:
        inputs: Inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        # A request without an id can't be stopped, but its id must differ from all others.
        request_id = request.request_id() or uuid.uuid4().hex
        if _flag(inputs, "stop"):
            self._engine.cancel(request_id)
            sender.send([])
            return
        wanted = _parse(request_id, inputs)
        exclude = _flag(inputs, "exclude_input_in_output", default=self._exclude_input)
        perf_metrics = _flag(inputs, "return_perf_metrics")
        names = set(request.requested_output_names())

        def answer(outcome: Completion | EngineError) -> None:
            self._live.pop(sender, None)
            if isinstance(outcome, Completion):
                echoed = [] if exclude else list(wanted.prompt_ids)
                outputs = _outputs(outcome, echoed, perf_metrics=perf_metrics)
                sender.send([pb_utils.Tensor(n, v()) for n, v in outputs.items() if n in names])
            elif isinstance(outcome, RequestCancelled):
                sender.fail(str(outcome), pb_utils.TritonError.CANCELLED)
            else:
                sender.fail(str(outcome))

        self._live[sender] = request_id  # before `submit`, which may answer it at once
        self._engine.submit(wanted, answer)

    def _poll(self, period_s: float) -> None:
        """Cancels requests whose callers went away without a `stop`, and updates the gauges.

        Ends this process if the engine has stopped: a dead process is detected and replaced.
        """
        while not self._closing.wait(period_s):
            if self._engine.ended:
                os._exit(1)
            for sender, request_id in list(self._live.items()):
                if sender.done:  # `submit` refused it
                    self._live.pop(sender, None)
                elif sender.abandoned():
                    self._engine.cancel(request_id)
            self._gauges.show(self._engine.usage())


class _Gauges:
    """The engine's load as Triton metrics, with the names of TensorRT-LLM's backend."""

    def __init__(self, model: str, blocks: int) -> None:
        self._requests = _gauge("nv_trt_llm_request_metrics", "Requests, by state.")
        self._blocks = _gauge("nv_trt_llm_kv_cache_block_metrics", "KV cache blocks, by state.")
        self._by_type: dict[str, Any] = {
            kind: family.Metric(labels={"model": model, "version": "1", label: kind})
            for family, label, kinds in (
                (self._requests, "request_type", ("scheduled", "waiting")),
                (self._blocks, "kv_cache_block_type", ("max", "used", "free")),
            )
            for kind in kinds
        }
        self._by_type["max"].set(blocks)
        self._shown: Usage | None = None
        self._next = 0.0

    def show(self, usage: Usage) -> None:
        """Sets the gauges, at most once a second: each value is a blocking message to Triton."""
        if usage == self._shown or (now := time.monotonic()) < self._next:
            return
        self._next = now + _GAUGES_S
        try:
            self._by_type["scheduled"].set(usage.running)
            self._by_type["waiting"].set(usage.waiting)
            self._by_type["used"].set(usage.held_blocks)
            # Cached blocks can be allocated, too.
            self._by_type["free"].set(usage.cached_blocks + usage.free_blocks)
        except pb_utils.TritonModelException as error:  # metrics must never fail requests
            pb_utils.Logger.log_warn(f"The engine's gauges could not be set: {error}")
            return
        self._shown = usage

    def close(self) -> None:
        """Deletes the metrics, which must be gone before their families."""
        self._by_type.clear()


def _gauge(name: str, text: str) -> Any:
    return pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)


class _Sender:
    """The response sender of one request, released with the final response.

    Triton forbids its use afterwards, and can't unload the model while a reference exists.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        return self._sender is None

    def send(self, tensors: list[Any]) -> None:
        self._finish(pb_utils.InferenceResponse(output_tensors=tensors))

    def fail(self, text: str, code: Any = None) -> None:
        error = pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL if code is None else code)
        self._finish(pb_utils.InferenceResponse(error=error))

    def abandoned(self) -> bool:
        with self._lock:
            return self._sender is not None and bool(self._sender.is_cancelled())

    def _finish(self, response: Any) -> None:
        with self._lock:
            sender, self._sender = self._sender, None
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _parse(request_id: str, inputs: Inputs) -> Request:
    for name, values in inputs.items():
        if values.shape[0] != 1:
            raise BadRequest(f"{name} has {values.shape[0]} rows. Send one row a request.")
    if "input_ids" not in inputs:
        raise BadRequest("input_ids is missing.")
    if _flag(inputs, "streaming"):
        raise BadRequest("streaming is not supported. Leave it out.")
    if inputs.get("runtime_top_k", np.ones(1)).item() not in (0, 1):
        raise BadRequest("runtime_top_k must be 1: this engine decodes greedily.")
    prompt_ids: list[int] = inputs["input_ids"].ravel().tolist()
    if inputs["input_lengths"].item() != len(prompt_ids):
        raise BadRequest(
            f"input_lengths is {inputs['input_lengths'].item()}, "
            f"but input_ids holds {len(prompt_ids)} tokens."
        )
    end_ids = _stop_words(inputs)
    if "end_id" in inputs:
        end_ids.add(inputs["end_id"].item())
    return Request(
        id=request_id,
        prompt_ids=prompt_ids,
        max_output_tokens=inputs["request_output_len"].item(),
        draft_ids=inputs["draft_input_ids"].ravel().tolist() if "draft_input_ids" in inputs else (),
        end_ids=frozenset(end_ids),
        return_log_probs=_flag(inputs, "return_log_probs"),
        return_logits=_flag(inputs, "return_generation_logits"),
    )


def _stop_words(inputs: Inputs) -> set[int]:
    """The words of `stop_words_list` [1, 2, n]: their tokens, and each word's end; -1 pads."""
    if "stop_words_list" not in inputs:
        return set()
    tokens, ends = inputs["stop_words_list"][0].tolist()
    words = [end for end in ends if end > 0]
    if words != list(range(1, len(words) + 1)):
        raise BadRequest("stop_words_list: words of more than one token are not supported.")
    return set(tokens[: len(words)])


def _flag(inputs: Inputs, name: str, *, default: bool = False) -> bool:
    return bool(inputs[name].item()) if name in inputs else default


def _outputs(
    completion: Completion, echoed: list[int], *, perf_metrics: bool
) -> dict[str, Callable[[], np.ndarray[Any, Any]]]:
    """The available outputs, each as a function, so that unrequested ones cost nothing."""
    ids = echoed + completion.output_ids
    outputs: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
        "output_ids": lambda: np.array([[ids]], np.int32),
        "sequence_length": lambda: np.array([[len(ids)]], np.int32),
    }
    log_probs, logits = completion.log_probs, completion.logits
    if log_probs is not None:
        outputs["output_log_probs"] = lambda: np.array([[log_probs]], np.float32)
        outputs["cum_log_probs"] = lambda: np.array([[sum(log_probs)]], np.float32)
    if logits is not None:
        outputs["generation_logits"] = lambda: logits[None, None]
    if perf_metrics:
        counts = {
            "kv_cache_reused_blocks": completion.reused_blocks,
            "total_accepted_draft_tokens": completion.accepted_draft_tokens,
            "total_draft_tokens": completion.draft_tokens,
        }
        for name, count in counts.items():
            outputs[name] = lambda count=count: np.array([[count]], np.int32)  # type: ignore[misc]
    return outputs
