"""Policies as `tenants.json` has them."""

import json
from hashlib import sha256
from typing import Literal

from pydantic import Field

from guard_core.schema import Record
from guard_core.verdict.policy import Action, Policy
from guard_core.verdict.taxonomy import Category

_VERSION_DIGITS = 12
_CONTROVERSIAL = {"strict": Action.BLOCK, "loose": Action.ALLOW, "review": Action.REVIEW}

ActionName = Literal["allow", "review", "block"]
# The contract's names, without CATEGORY_.
CategoryName = Literal[
    "VIOLENT",
    "NON_VIOLENT_ILLEGAL_ACTS",
    "SEXUAL_CONTENT",
    "PII",
    "SUICIDE_AND_SELF_HARM",
    "UNETHICAL_ACTS",
    "POLITICALLY_SENSITIVE",
    "COPYRIGHT_VIOLATION",
    "JAILBREAK",
]


class NamedPolicy(Record):
    """From a verdict to an action, as `Policy` in the contract."""

    controversial: Literal["strict", "loose", "review"] = Field(
        default="strict",
        description="How Controversial is treated: as Unsafe, as Safe, or by REVIEW.",
    )
    categories: dict[CategoryName, ActionName] = Field(
        default_factory=dict,
        description="Actions instead of the severity's, by category: the strictest counts. They "
        "do not change ALLOW.",
    )

    @property
    def version(self) -> str:
        """A hash of what it says: the same for equal policies, whatever their names."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return sha256(text.encode()).hexdigest()[:_VERSION_DIGITS]

    def compiled(self, name: str) -> Policy:
        """As requests are judged by it."""
        rules = {Category[each]: Action[action.upper()] for each, action in self.categories.items()}
        return Policy(_CONTROVERSIAL[self.controversial], rules, name, self.version)
