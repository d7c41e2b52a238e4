"""What watches the pipeline. The pipeline knows no metrics: telemetry implements this."""

from dataclasses import dataclass

from guard_core.errors import GuardError
from guard_core.verdict.taxonomy import Severity
from guard_server.pipeline.live_events import CheckKind, LiveStep
from guard_server.pipeline.request import Call
from guard_server.pipeline.result import Moderation
from guard_server.routing.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request that a shadow judged too; times in microseconds."""

    severity: Severity  # that the caller got
    shadow_severity: Severity
    agreed: bool  # in severity, categories and refusal
    answer_us: int
    shadow_us: int


class Observer:
    """Is called after each event; every method does nothing unless overridden."""

    def answered(self, call: Call, moderation: Moderation) -> None:
        """A request got its verdict."""

    def failed(self, call: Call, error: GuardError | None) -> None:
        """A request got none. None: its caller cancelled it."""

    def failed_over(self, endpoint: Endpoint) -> None:
        """A request failed on an endpoint as unavailable, and another one is asked."""

    def shadowed(self, slot: str, comparison: Comparison) -> None:
        """A shadow judged a request too."""

    def shadow_dropped(self, slot: str) -> None:
        """A request was not shadowed, because no spare capacity was left."""

    def shadow_failed(self, slot: str) -> None:
        """A shadow gave no verdict."""

    def live_opened(self) -> None:
        """A ModerateLive call began."""

    def live_closed(self, held_by: str | None) -> None:
        """It ended, however. `held_by`: the slot whose verdict held text without a final one."""

    def live_judged(self, slot: str, step: LiveStep) -> None:
        """A check of it gave a verdict."""

    def live_failed(self, slot: str, kind: CheckKind, error: GuardError | None) -> None:
        """A check of it gave none. None: it was cancelled."""
