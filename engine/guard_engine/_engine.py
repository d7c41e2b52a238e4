"""The engine: one thread that runs the model step by step for all requests in flight."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guard_engine._errors import (
    BadRequest,
    EngineClosed,
    EngineError,
    RequestCancelled,
    StepFailed,
)
from guard_engine._request import Completion, Request
from guard_engine.blocks import BlockPool
from guard_engine.runtime import Runtime
from guard_engine.scheduler import Scheduler
from guard_engine.sequence import Chunk, Sequence

_log = logging.getLogger(__name__)
_MOST_FAILURES = 3  # failed steps in a row, after which the engine stops: it won't recover

Callback = Callable[[Completion | EngineError], None]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits of one request and of the engine."""

    max_input_tokens: int
    """Prompt and draft together."""
    max_output_tokens: int
    max_draft_tokens: int
    max_in_flight: int
    """Requests in flight; more are queued."""
    kv_blocks: int
    """The fixed number of KV blocks, of 32 tokens each."""
    step_tokens: int = 512
    """The most tokens that one step computes."""

    def __post_init__(self) -> None:
        if self.max_in_flight > self.step_tokens // 2:
            raise ValueError("step_tokens must be at least twice max_in_flight.")


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests and KV blocks at one moment."""

    running: int
    waiting: int
    held_blocks: int
    cached_blocks: int
    free_blocks: int


class Engine:
    """Serves requests with one model. Its methods may be called from any thread."""

    def __init__(self, xml: Path, options: EngineOptions) -> None:
        """Loads the graph that `save_graph` wrote. Returns when the engine is ready."""
        self._options = options
        self._runtime = Runtime(xml, options.kv_blocks)
        self._pool = BlockPool(options.kv_blocks, self._runtime.copy_tokens)
        self._scheduler = Scheduler(
            self._pool, max_in_flight=options.max_in_flight, step_tokens=options.step_tokens
        )
        self._inbox: queue.SimpleQueue[Sequence | str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over _callbacks and _closed
        self._callbacks: dict[str, Callback] = {}
        self._closed = False
        self._live: dict[str, Sequence] = {}  # only the engine thread uses this and the next
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="guard-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, callback: Callback) -> None:
        """Queues `request` and returns at once.

        `callback` is called exactly once, on the engine thread, with the completion or with
        RequestCancelled, StepFailed or EngineClosed. Raises BadRequest or EngineClosed.
        """
        self._check(request)
        sequence = Sequence(request)
        if sequence.blocks_needed > self._pool.blocks:
            raise BadRequest(
                f"The request needs {sequence.blocks_needed} KV blocks, but the engine has "
                f"{self._pool.blocks}. Shorten the prompt, or build the engine with more."
            )
        with self._lock:
            if self._closed:
                raise EngineClosed("The engine is closed.")
            if request.id in self._callbacks:
                raise BadRequest(f"A request with id {request.id} is already in flight.")
            self._callbacks[request.id] = callback
            self._inbox.put(sequence)

    def cancel(self, request_id: str) -> bool:
        """Drops a request before the next step. Returns False if no such request is in flight.

        The request may still complete first; its callback gets the one outcome that happened.
        """
        with self._lock:
            if request_id not in self._callbacks:
                return False
            self._inbox.put(request_id)
            return True

    def usage(self) -> Usage:
        """Requests and blocks now. Exact only while nothing is in flight."""
        return Usage(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            held_blocks=self._pool.blocks - self._pool.available,
            cached_blocks=len(self._pool.cached),
            free_blocks=len(self._pool.free),
        )

    @property
    def ended(self) -> bool:
        """Whether the engine has stopped: it was closed, or several steps in a row failed."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stops after the current step. Requests in flight get EngineClosed. Can be repeated."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _check(self, request: Request) -> None:
        """Raises BadRequest, with TensorRT-LLM's messages where it has one."""
        options, draft = self._options, len(request.draft_ids)
        length = len(request.prompt_ids) + draft
        if not request.prompt_ids:
            raise BadRequest("The prompt is empty.")
        if length > options.max_input_tokens:
            raise BadRequest(
                f"Prompt length ({length}) exceeds maximum input length "
                f"({options.max_input_tokens})." + (" Draft tokens count too." if draft else "")
            )
        if draft > options.max_draft_tokens:
            raise BadRequest(
                f"Draft length ({draft}) exceeds maximum draft length ({options.max_draft_tokens})."
            )
        if not 1 <= request.max_output_tokens <= options.max_output_tokens:
            raise BadRequest(
                f"Output length ({request.max_output_tokens}) is not between 1 and the maximum "
                f"output length ({options.max_output_tokens})."
            )
        for ids in (request.prompt_ids, request.draft_ids or (0,)):
            if min(ids) < 0 or max(ids) >= self._runtime.vocab_size:
                raise BadRequest(
                    f"A token id is outside the vocabulary (0 to {self._runtime.vocab_size - 1})."
                )

    def _run(self) -> None:
        try:
            while self._take_messages():
                self._step()
        except Exception:
            _log.exception("the engine stopped and must be loaded again")
        with self._lock:
            self._closed = True
            left = list(self._callbacks)
        for sequence in self._live.values():
            self._scheduler.remove(sequence)
        for request_id in left:
            self._deliver(request_id, EngineClosed("The engine ended before the request did."))

    def _take_messages(self) -> bool:
        """Takes new requests and cancellations, and waits while there is no work.

        Returns False if the engine must stop.
        """
        while not self._inbox.empty() or not self._live:
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, Sequence):
                self._live[message.request.id] = message
                self._scheduler.add(message)
            elif message in self._live:
                self._scheduler.remove(self._live[message])
                self._deliver(message, RequestCancelled(f"Request {message} was cancelled."))
        return True

    def _step(self) -> None:
        chunks: list[Chunk] = []
        try:
            chunks = self._scheduler.plan()
            finished = self._scheduler.commit(chunks, self._runtime.step(chunks))
        except Exception as error:
            _log.exception("a step failed")
            failed = [chunk.sequence for chunk in chunks] or list(self._live.values())
            reason = str(error) or type(error).__name__  # a MemoryError has no text
            for sequence in failed:
                self._scheduler.remove(sequence)
                self._deliver(sequence.request.id, StepFailed(f"The model failed: {reason}"))
            self._failures += 1
            if self._failures == _MOST_FAILURES:
                raise
            return
        self._failures = 0
        for sequence in finished:
            self._deliver(sequence.request.id, sequence.completion())

    def _deliver(self, request_id: str, outcome: Completion | EngineError) -> None:
        self._live.pop(request_id, None)
        with self._lock:
            callback = self._callbacks.pop(request_id)
        try:
            callback(outcome)
        except Exception:
            _log.exception("the callback of request %s failed", request_id)
