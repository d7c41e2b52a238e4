"""Names of tenants, as files, metadata and metrics have them."""

import re
from typing import Annotated

from pydantic import Field

_NAME = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
TenantName = Annotated[str, Field(pattern=_NAME)]


def is_name(text: str) -> bool:
    """Whether a tenant may be called so."""
    return re.fullmatch(_NAME, text) is not None
