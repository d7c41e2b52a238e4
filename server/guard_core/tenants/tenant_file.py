"""What the platform has for each tenant: `tenants.json`, which every gateway process follows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from guard_core.errors import TenantsInvalid
from guard_core.schema import Record, first_problem
from guard_core.tenants.names import TenantName


class Tenant(Record):
    """One team."""

    sans: tuple[str, ...] = Field(
        default=(),
        description="Callers whose client certificate has one of these names: each the whole of a "
        "DNS name, URI, address or e-mail address in its subjectAltName.",
    )


class TenantFile(Record):
    """All of `tenants.json`."""

    schema_version: Literal[1] = 1
    tenants: dict[TenantName, Tenant] = Field(default_factory=dict, description="By name.")

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
