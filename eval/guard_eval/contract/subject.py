"""What the checks of one mode ask about."""

from dataclasses import dataclass, field

from guard_core.conversation import Mode
from guard_core.engine.tensors import Generation
from guard_core.slot.manifest import Limits
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract.asking import RawAnswer, RawEngine


@dataclass(slots=True)
class Subject:
    """A conversation's prompt, and what the model writes after it."""

    engine: RawEngine
    files: SlotFiles
    mode: Mode
    prompt: list[int]
    written: list[int] = field(default_factory=list)
    """Without the end token; empty as long as it is not known."""

    @property
    def limits(self) -> Limits:
        return self.files.manifest.limits

    @property
    def end(self) -> int:
        return self.files.manifest.tokens.end_ids[0]

    def ask(
        self, draft: list[int], *, most: int | None = None, prompt: list[int] | None = None
    ) -> RawAnswer:
        """At most one token more than the draft has, unless `most` says otherwise."""
        most = len(draft) + 1 if most is None else most
        return self.engine.ask(Generation(prompt or self.prompt, self.end, most, draft))

    def wrong_at(self, at: int) -> list[int]:
        """What the model writes, with its end token, but for one token."""
        written = self.written
        return [*written[:at], other_than(written[at]), *written[at + 1 :], self.end]

    def name(self, check: str) -> str:
        """Of a check that is made in each mode."""
        return f"{self.mode.value}: {check}"


def other_than(token: int) -> int:
    """Another token, which every vocabulary has."""
    return next(other for other in (0, 1) if other != token)
