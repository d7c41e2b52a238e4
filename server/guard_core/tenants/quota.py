"""Quotas as `tenants.json` has them."""

from pydantic import Field

from guard_core.schema import Record


class Rate(Record):
    """So much a second, and more at once after a pause."""

    per_s: float = Field(ge=0, le=1e9, description="On average; 0: none at all.")
    burst: float | None = Field(
        default=None, ge=1, le=1e9, description="At once at most. Default: those of a second."
    )

    @property
    def most(self) -> float:
        """At once."""
        if self.burst is not None:
            return self.burst
        return max(1.0, self.per_s)


class Quota(Record):
    """What may be asked for. What is not given has no bound."""

    conversations: Rate | None = Field(
        default=None, description="Each item of a batch or stream, and each live check, is one."
    )
    tokens: Rate | None = Field(default=None, description="Of prompts, as the slot counts them.")
    in_flight: int | None = Field(
        default=None, ge=0, description="Conversations; a batch has 64 at most."
    )
