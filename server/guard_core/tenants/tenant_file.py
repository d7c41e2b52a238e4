"""What the platform has for each tenant: `tenants.json`, which every gateway process follows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from guard_core.errors import TenantsInvalid
from guard_core.schema import Record, first_problem
from guard_core.slot.traffic import SlotName
from guard_core.tenants.names import TenantName
from guard_core.tenants.policies import NamedPolicy
from guard_core.tenants.quota import Quota

MOST_MEASURED = 50  # each has some 15 series
PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]


class Tenant(Record):
    """What one team may ask for, and what its requests mean."""

    sans: tuple[str, ...] = Field(
        default=(),
        description="Callers whose client certificate has one of these names: each the whole of a "
        "DNS name, URI, address or e-mail address in its subjectAltName.",
    )
    policy: PolicyName | None = Field(
        default=None, description="Of requests that bring none. Default: strict, without rules."
    )
    floor: PolicyName | None = Field(
        default=None,
        description="A policy than which no action is milder, whatever a request asks for.",
    )
    slots: tuple[SlotName, ...] | None = Field(
        default=None,
        description="Slots that requests may name. Default: all with --allow-slot-choice, else "
        "none.",
    )
    quota: Quota | None = Field(default=None, description="Of all its callers together.")
    metrics: bool = Field(
        default=False,
        description=f"Whether metrics name it; at most {MOST_MEASURED} may. Else it is one of the "
        "others.",
    )
    scores: bool = Field(default=True, description="Whether requests may ask for scores.")
    isolated: bool = Field(
        default=False,
        description="Whether verdicts are shared with no other caller, in the cache or in flight.",
    )


class TenantFile(Record):
    """All of `tenants.json`."""

    schema_version: Literal[1] = 1
    policies: dict[PolicyName, NamedPolicy] = Field(default_factory=dict, description="By name.")
    tenants: dict[TenantName, Tenant] = Field(default_factory=dict, description="By name.")
    total: Quota | None = Field(default=None, description="Of all callers together.")
    others: Tenant = Field(
        default_factory=Tenant,
        description="Callers that are none of the tenants above, together.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for where, tenant in self._all():
            for key, name in (("policy", tenant.policy), ("floor", tenant.floor)):
                if name is not None and name not in self.policies:
                    raise ValueError(f"{where}.{key}: {name} is none of the policies")
        measured = sum(tenant.metrics for tenant in self.tenants.values())
        if measured > MOST_MEASURED:
            raise ValueError(f"{measured} tenants have metrics: at most {MOST_MEASURED} may")
        if self.others.sans:
            raise ValueError("others.sans: a name in certificates is one tenant's")
        return self

    @model_validator(mode="after")
    def _a_name_is_one_tenants(self) -> Self:
        seen: dict[str, str] = {}
        for san, tenant in self.by_san():
            if san in seen:
                raise ValueError(f"{san} is a name of {seen[san]} and of {tenant}: leave it one")
            seen[san] = tenant
        return self

    def by_san(self) -> Iterator[tuple[str, str]]:
        """Each name in certificates, with its tenant."""
        return ((san, name) for name, tenant in self.tenants.items() for san in tenant.sans)

    def _all(self) -> Iterator[tuple[str, Tenant]]:
        yield "others", self.others
        yield from ((f"tenants.{name}", tenant) for name, tenant in self.tenants.items())


def load(path: Path) -> TenantFile:
    """Raises TenantsInvalid, saying where and what."""
    try:
        return TenantFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TenantsInvalid(
            f"{path} can't be read: {error.strerror}. Write it, or name another with GUARD_TENANTS."
        ) from None
    except ValidationError as error:
        raise TenantsInvalid(f"{path}: {first_problem(error)}. Correct the file.") from None
