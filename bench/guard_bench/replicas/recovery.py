"""Whether a replica that was hit is back, as every gateway sees it: by their status files."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Recovery:
    """Of one replica, from before it is hit.

    Its own count of answers would not do: what it had in flight when it was lost, and the verdicts
    of warm-ups that lead to nothing, count there too.
    """

    def __init__(self, status: Path, triton: str, *, gateways: int, answers: int) -> None:
        """`status`: the directory of the gateways' status files. `answers`: to requests, of all
        gateways together, once it is ready again.
        """
        self._status = status
        self._triton = triton
        self._gateways = gateways
        self._answers = answers
        self._lost_before = {name: one["ejections"] for name, one in self._read().items()}
        self._answered_before: dict[str, int] = {}  # by gateways for which it is ready again

    def back(self) -> bool:
        """To be asked every moment: whether a gateway has lost it, and each of them has it ready
        and has had an answer of it since then.
        """
        found, answers = self._read(), list[int]()
        if not any(
            one["ejections"] > self._lost_before.get(name, 0) for name, one in found.items()
        ):
            return False
        for name, one in found.items():
            if one["state"] == "ready":
                then = self._answered_before.setdefault(name, one["answered"])
                answers.append(one["answered"] - then)
            else:
                self._answered_before.pop(name, None)
        return len(answers) == self._gateways and all(answers) and sum(answers) >= self._answers

    def _read(self) -> Mapping[str, Any]:
        """What each gateway says of the replica, by the file's name."""
        found = {}
        for path in self._status.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, KeyError):  # it ends or begins just now
                [slot] = json.loads(path.read_bytes())["slots"].values()
                found[path.name] = slot["replicas"][self._triton]
        return found
