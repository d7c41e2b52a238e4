"""Names of tenants, as files, metadata and metrics have them."""

from typing import Annotated

from pydantic import Field

TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
