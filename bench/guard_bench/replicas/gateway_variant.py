"""A gateway that differs in one thing, for comparison: `python -m ... policy NAME` or `names FILE`.

`policy`: replicas are chosen at random, or by two choices, instead of by expected time. `names`: a
name's addresses are what the file says, one a line, instead of what the system's resolver does.
"""

import runpy
import socket
import sys
from pathlib import Path
from typing import Any

from guard_bench.simulation.simulated_gateway import at_random, two_choices
from guard_core.balancing import expected_time

NAME = "tritons.bench"
_POLICIES = {"random": at_random, "two choices": two_choices}


def command(kind: str, given: str) -> list[str]:
    """What starts it; its settings are the gateway's."""
    return [sys.executable, "-m", "guard_bench.replicas.gateway_variant", kind, given]


def main() -> None:
    kind, given = sys.argv[1:]
    if kind == "policy":
        # Before the gateway's modules take it from there.
        expected_time.pick = _POLICIES[given]  # type: ignore[assignment]
    else:
        _resolve_by(Path(given))
    sys.argv[1:] = []
    runpy.run_module("guard_server", run_name="__main__", alter_sys=True)


def _resolve_by(file: Path) -> None:
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *given: Any, **named: Any) -> Any:
        if host != NAME:
            return ask(host, port, *given, **named)
        hosts = file.read_text().split()
        if not hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for one in hosts for entry in ask(one, port, *given, **named)]

    socket.getaddrinfo = answer


if __name__ == "__main__":
    main()
