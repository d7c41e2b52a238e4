"""Counts and times for KServe's ModelStatistics: plain numbers that only grow."""

import time
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2

from guard_core.errors import GuardError
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.request import Call
from guard_server.pipeline.result import Moderation, Stage


@dataclass(slots=True)
class _Span:
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, microseconds: int) -> None:
        self.count += 1
        self.ns += microseconds * 1000

    def message(self) -> service_pb2.StatisticDuration:
        return service_pb2.StatisticDuration(count=self.count, ns=self.ns)


@dataclass(slots=True)
class KServeStatistics(Observer):
    """Of this process, all APIs together, since it was started."""

    _success: _Span = field(default_factory=_Span)
    _fail: _Span = field(default_factory=_Span)
    _queue: _Span = field(default_factory=_Span)
    _compute_input: _Span = field(default_factory=_Span)  # validation and tokenization
    _compute_infer: _Span = field(default_factory=_Span)  # the engine
    _compute_output: _Span = field(default_factory=_Span)  # policy
    _cache_hit: _Span = field(default_factory=_Span)
    _engine_calls: int = 0
    _last_ms: int = 0  # since 1970

    def answered(self, call: Call, moderation: Moderation) -> None:
        """A cached verdict is a success and a hit, without any time of the engine's."""
        total, stages = call.timer.total, call.timer.stages
        self._success.add(total)
        self._last_ms = time.time_ns() // 1_000_000
        self._compute_input.add(stages[Stage.VALIDATE] + stages[Stage.PROMPT])
        self._queue.add(stages.get(Stage.QUEUE, 0))
        if moderation.cached:
            self._cache_hit.add(total)
            return
        self._compute_infer.add(stages[Stage.ENGINE])
        self._compute_output.add(stages[Stage.VERDICT])
        self._engine_calls += moderation.usage.engine_calls

    def failed(self, call: Call, error: GuardError | None) -> None:
        self._fail.add(call.timer.total)

    def message(self, model: str, version: str) -> service_pb2.ModelStatistics:
        return service_pb2.ModelStatistics(
            name=model,
            version=version,
            last_inference=self._last_ms,
            inference_count=self._success.count,
            execution_count=self._engine_calls,
            inference_stats=service_pb2.InferStatistics(
                success=self._success.message(),
                fail=self._fail.message(),
                queue=self._queue.message(),
                compute_input=self._compute_input.message(),
                compute_infer=self._compute_infer.message(),
                compute_output=self._compute_output.message(),
                cache_hit=self._cache_hit.message(),
            ),
        )
