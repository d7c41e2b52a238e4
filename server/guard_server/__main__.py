"""`python -m guard_server`: the gateway alone, set by GUARD_* variables (see settings.py)."""

import asyncio
import sys

from pydantic import ValidationError

from guard_core.errors import CertificateInvalid, SlotInvalid, TrafficInvalid
from guard_server import app, log
from guard_server.settings import Settings


def main() -> int:
    try:
        settings = Settings()  # from the environment
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"{f'GUARD_{name.upper()}: ' if name else ''}{problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    log.configure(settings.log_format)
    try:
        asyncio.run(app.run(settings))
    except (SlotInvalid, TrafficInvalid, CertificateInvalid, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


sys.exit(main())
