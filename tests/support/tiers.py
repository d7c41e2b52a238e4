"""What a test needs beside Python, as markers.

`triton` (a real Triton, most often below `guard serve`) and `clients` (a tool of another language)
are set by the fixtures that a test uses. A test that starts such a program without its marker
fails.
`reference` (what was recorded of the real model) and `slow` are set by hand. `make test-fast` runs
the tests without any of them.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.shared import SHARED

# A test that uses one of these fixtures, also through another one, has the marker.
_OF_FIXTURE = {
    "served": "triton",
    "swapping": "triton",
    "triton": "triton",
    "gpu_triton": "triton",
    "needs": "clients",
}
# A test that starts one of these programs without the marker fails.
_OF_PROGRAM = {"tritonserver": "triton", "go": "clients", "mvn": "clients"}
_items: dict[str, pytest.Item] = {}


def mark(items: Iterable[pytest.Item]) -> None:
    """Adds the markers that follow from fixtures; without its data, `reference` is a skip."""
    no_reference = pytest.mark.skip(reason=f"no reference data in {SHARED}")
    for item in items:
        _items[item.nodeid] = item
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _OF_FIXTURE:
                item.add_marker(_OF_FIXTURE[fixture])
        if item.get_closest_marker("reference") and not SHARED.is_dir():
            item.add_marker(no_reference)


def require(marker: str) -> None:
    """Raises LookupError if the test that runs lacks the marker."""
    name = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if name in _items and not _items[name].get_closest_marker(marker):
        raise LookupError(f"{name} needs the marker: pytest.mark.{marker}")


def watch_programs() -> None:
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        marker = _OF_PROGRAM.get(Path(os.fsdecode(arguments[0] or arguments[1][0])).name)
        if marker:
            require(marker)
