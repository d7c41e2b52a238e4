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
    """`controversial`: the action for that severity; ALLOW treats it as Safe altogether."""

    controversial: Action = Action.BLOCK
    category_rules: dict[Category, Action] = field(default_factory=dict)

    def action(self, verdict: Verdict) -> Action:
        """Categories' rules replace any action but ALLOW, and may be milder; the strictest wins."""
        by_severity = {
            Severity.SAFE: Action.ALLOW,
            Severity.CONTROVERSIAL: self.controversial,
            Severity.UNSAFE: Action.BLOCK,
        }[verdict.severity]
        if by_severity is Action.ALLOW or not verdict.categories:
            return by_severity
        return max(self.category_rules.get(name, by_severity) for name in verdict.categories)
