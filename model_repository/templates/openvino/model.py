"""The CPU engine as a Triton model with TensorRT-LLM's tensor contract.

`execute` only queues requests. The engine's thread sends one final response for each:

- the output ids, without the end token, and the other outputs that the request names;
- an error, if the request is refused or fails. An error never affects another request;
- for `stop`: a response without outputs, which acknowledges it, also if the id is not in flight.
  The stopped request itself gets the error CANCELLED, which can't be mistaken for output.

`pad_id` and the `retention_*` inputs are accepted and have no effect: there is no padding, and the
engine evicts the least recently used blocks first.

Tensors pass by DLPack: Triton's own conversion was compiled for numpy 1, and takes the first value
of an array for all of them where numpy 2 is installed.
"""

import ctypes
import json
import os
import signal
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # Triton adds its classes before `initialize`
from numpy.typing import NDArray

from guard_engine import (
    BadRequest,
    Completion,
    Engine,
    EngineError,
    EngineOptions,
    RequestCancelled,
    Usage,
)
from guard_engine.triton_tensors import flag, outputs, read_request

_GAUGES_S = 1.0
_WATCH_S = 0.5
_STUCK_S = 10.0  # in which no Python code ran
_USED = b"used_dltensor"  # kept: a capsule has no copy of its name
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]


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
        self._parent = os.getppid()
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, args=[period_ms / 1000], daemon=True)
        self._poller.start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

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
        self._watcher.join()
        self._poller.join()
        self._engine.close()
        self._gauges.close()

    def _accept(self, request: Any, sender: "_Sender") -> None:
        inputs = {tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()}
        # A request without an id can't be stopped, but its id must differ from all others.
        request_id = request.request_id() or uuid.uuid4().hex
        if flag(inputs, "stop"):
            self._engine.cancel(request_id)
            sender.send([])
            return
        wanted = read_request(request_id, inputs)
        exclude = flag(inputs, "exclude_input_in_output", default=self._exclude_input)
        perf_metrics = flag(inputs, "return_perf_metrics")
        names = set(request.requested_output_names())

        def answer(outcome: Completion | EngineError) -> None:
            self._live.pop(sender, None)
            if isinstance(outcome, Completion):
                echoed = [] if exclude else list(wanted.prompt_ids)
                found = outputs(outcome, echoed, perf_metrics=perf_metrics)
                sender.send([_tensor(n, v()) for n, v in found.items() if n in names])
            elif isinstance(outcome, RequestCancelled):
                sender.fail(str(outcome), pb_utils.TritonError.CANCELLED)
            else:
                sender.fail(str(outcome))

        self._live[sender] = request_id  # before `submit`, which may answer it at once
        self._engine.submit(wanted, answer)

    def _poll(self, period_s: float) -> None:
        """Cancels requests whose callers went away without a `stop`, and updates the gauges.

        It asks Triton, and so waits for good if that was killed.
        """
        while not self._closing.wait(period_s):
            for sender, request_id in list(self._live.items()):
                if sender.done:  # `submit` refused it
                    self._live.pop(sender, None)
                elif sender.abandoned():
                    self._engine.cancel(request_id)
            self._gauges.show(self._engine.usage())

    def _watch(self) -> None:
        """Ends this process if the engine has stopped: a dead process is detected and replaced.

        Also if Triton was killed: the stub notices that itself only once Triton's remains are
        cleared away, which not every container does.
        """
        while True:
            # A gauge that is set just as Triton dies waits for it for ever, with Python's lock: no
            # thread runs any more, this one neither. The kernel's signal ends the process then.
            signal.setitimer(signal.ITIMER_REAL, _STUCK_S)
            if self._closing.wait(_WATCH_S):
                break
            if self._engine.ended or os.getppid() != self._parent:
                os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)


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


def _tensor(name: str, values: NDArray[Any]) -> Any:
    """The stub takes an empty array by its own conversion only, which has nothing to read then.

    It gives a capsule that it took another name than DLPack says. numpy then writes a traceback to
    Triton's log, in 160 us for each tensor; so the capsule gets the right name.
    """
    if not values.size:
        return pb_utils.Tensor(name, values)
    capsule = np.require(values, requirements=["C", "W"]).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, _USED)
    return tensor


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
