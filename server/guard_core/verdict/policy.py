"""From a verdict to an action. The model sees no policy, and no policy changes a verdict."""

from dataclasses import dataclass, field
from enum import IntEnum

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Category, Severity


class Action(IntEnum):
    """Ordered by strictness."""

    ALLOW = 1
    REVIEW = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """`controversial`: the action for that severity; ALLOW treats it as Safe altogether.

    `name` and `version` are those of a policy that the server has; `floor` is a policy than which
    no action is milder.
    """

    controversial: Action = Action.BLOCK
    category_rules: dict[Category, Action] = field(default_factory=dict)
    name: str = ""
    version: str = ""
    floor: "Policy | None" = None

    def action(self, verdict: Verdict) -> Action:
        """Categories' rules replace any action but ALLOW, and may be milder; the strictest wins."""
        own = self._own_action(verdict)
        return own if self.floor is None else max(own, self.floor.action(verdict))

    def floor_of(self, verdict: Verdict) -> str:
        """The floor's name, if that made the action stricter; else empty."""
        raised = self.floor is not None and self.action(verdict) > self._own_action(verdict)
        return self.floor.name if raised and self.floor is not None else ""

    @property
    def by_category(self) -> bool:
        """Whether a verdict's categories can change its action."""
        return bool(self.category_rules) or (self.floor is not None and self.floor.by_category)

    def _own_action(self, verdict: Verdict) -> Action:
        by_severity = {
            Severity.SAFE: Action.ALLOW,
            Severity.CONTROVERSIAL: self.controversial,
            Severity.UNSAFE: Action.BLOCK,
        }[verdict.severity]
        if by_severity is Action.ALLOW or not verdict.categories:
            return by_severity
        return max(self.category_rules.get(name, by_severity) for name in verdict.categories)
