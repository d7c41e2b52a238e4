"""`python -m guard_server`: the gateway alone, set by GUARD_* variables (see settings.py)."""

import asyncio
import gc
import os
import sys

import structlog
from pydantic import ValidationError

from guard_core.errors import CertificateInvalid, SlotInvalid, TenantsInvalid, TrafficInvalid
from guard_core.schema import problems
from guard_server import app, log
from guard_server.settings import Settings


def main() -> int:
    # What is wrong with the settings is logged too, in the format that they ask for.
    log.configure("console" if os.environ.get("GUARD_LOG_FORMAT") == "console" else "json")
    logger = structlog.get_logger()
    try:
        settings = Settings()  # from the environment
    except ValidationError as error:
        for name, problem in problems(error):
            logger.error(f"GUARD_{name.upper()}: {problem}" if name else problem)
        return 2
    # A full garbage collection stops the event loop while it goes through all objects: for 40 ms of
    # processor time with the 75,000 that the imports made and that stay, for 5 ms without them.
    # Large batches whose items are all refused have such collections made.
    gc.freeze()
    try:
        asyncio.run(app.run(settings))
    except (SlotInvalid, TrafficInvalid, CertificateInvalid, TenantsInvalid, OSError) as error:
        logger.error(str(error))
        return 1
    return 0


sys.exit(main())
