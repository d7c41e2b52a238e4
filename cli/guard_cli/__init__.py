"""`guard`: the one command line. Its commands are in `guard_cli.commands`."""

import sys
from importlib.util import find_spec

if find_spec("typer") is None:
    sys.exit(
        "The command line is not installed: run "
        f"`{sys.executable} -m pip install 'qwen3guard-server[cli]'`."
    )
