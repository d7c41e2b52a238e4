"""A null engine: TensorRT-LLM's tensor contract, and no model behind it.

It agrees to every draft, at once or at a fixed capacity: so many requests at a time, each for the
same time. To a request without a draft it answers that the model ended at once. Triton loads this
file by itself, so it imports nothing of the project.
"""

import ctypes
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # its classes exist from `initialize` on

_USED = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_Answer = Callable[[int | None], None]  # when it was begun, in ns; None: it was stopped


class TritonPythonModel:
    """The name and the three methods are those that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        rate = float(parameters["verdicts_per_second"]["string_value"])
        in_flight = int(parameters["max_in_flight"]["string_value"])
        self._pace = _Pace(in_flight, in_flight / rate) if rate else None
        self._zero = np.zeros((1, 1), np.int32)
        self._none = np.zeros((1, 0), np.int32)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if _value(request, "stop") is not None:
                if self._pace:
                    self._pace.stop(request.request_id())
                sender.send(pb_utils.InferenceResponse([]), flags=_final())
                continue
            draft = _value(request, "draft_input_ids")
            ids = self._none if draft is None else draft
            if ids.size and ids[0, -1] == _value(request, "end_id").item():
                ids = ids[:, :-1]  # it is never returned
            if self._pace:
                self._pace.begin(request.request_id(), _Later(self._answer, sender, ids))
            else:
                now = time.monotonic_ns()
                self._answer(sender, ids, now, now)

    def finalize(self) -> None:
        if self._pace:
            self._pace.close()

    def _answer(self, sender: Any, ids: Any, arrived: int, begun: int) -> None:
        times = {
            "arrival_time_ns": arrived,
            "first_scheduled_time_ns": begun,
            "first_token_time_ns": time.monotonic_ns(),
        }
        tensors = [
            _tensor("output_ids", ids.reshape(1, 1, -1)),
            _tensor("sequence_length", np.array([[ids.size]], np.int32)),
            _tensor("kv_cache_reused_blocks", self._zero),
            *(_tensor(n, np.array([[ns]], np.int64)) for n, ns in times.items()),
        ]
        sender.send(pb_utils.InferenceResponse(tensors), flags=_final())


class _Later:
    """An answer that is sent when its time has come, or as cancelled if it was stopped."""

    def __init__(self, answer: Callable[..., None], sender: Any, ids: Any) -> None:
        self._answer, self._sender, self._ids = answer, sender, ids
        self._arrived = time.monotonic_ns()

    def __call__(self, begun: int | None) -> None:
        if begun is None:
            error = pb_utils.TritonError("stopped", pb_utils.TritonError.CANCELLED)
            self._sender.send(pb_utils.InferenceResponse(error=error), flags=_final())
        else:
            begun = max(begun, self._arrived)  # a place that was free earlier may be found late
            self._answer(self._sender, self._ids, self._arrived, begun)


class _Pace:
    """Works on so many requests at a time, each for the same time: they end as they began."""

    def __init__(self, in_flight: int, seconds: float) -> None:
        self._max_in_flight, self._seconds = in_flight, seconds
        self._waiting: deque[tuple[str, _Answer]] = deque()
        self._running: dict[str, tuple[float, _Answer]] = {}  # when it ends
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, name: str, answer: _Answer) -> None:
        with self._changed:
            self._waiting.append((name, answer))
            self._fill(time.monotonic())
            self._changed.notify()

    def stop(self, name: str) -> None:
        """Ends a request that is worked on, or takes it out of the queue."""
        with self._changed:
            found = self._running.pop(name, None)
            answers = [found[1]] if found else [a for n, a in self._waiting if n == name]
            self._waiting = deque(item for item in self._waiting if item[0] != name)
            self._fill(time.monotonic())
            self._changed.notify()
        for answer in answers:
            answer(None)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _fill(self, now: float) -> None:
        while self._waiting and len(self._running) < self._max_in_flight:
            name, answer = self._waiting.popleft()
            self._running[name] = now + self._seconds, answer

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closing and not self._is_due():
                    self._changed.wait(self._until_due())
                if self._closing:
                    return
                name = next(iter(self._running))
                due, answer = self._running.pop(name)
                self._fill(due)  # from when it was due: waking late costs no capacity
            answer(int((due - self._seconds) * 1e9))

    def _until_due(self) -> float | None:
        return next((max(0.0, due - time.monotonic()) for due, _ in self._running.values()), None)

    def _is_due(self) -> bool:
        return self._until_due() == 0.0


def _value(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else np.from_dlpack(tensor)


def _tensor(name: str, values: Any) -> Any:
    """By DLPack, as inputs too: the CPU engine's model.py has the reasons."""
    if not values.size:
        return pb_utils.Tensor(name, values)
    capsule = np.require(values, requirements=["C", "W"]).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, _USED)
    return tensor


def _final() -> Any:
    return pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
