"""The names and types that TensorRT-LLM's tools really take, so that no typo vanishes in them.

trtllm-build ignores plugin keys that it doesn't know, so a flag is checked here before it is used.
The table stands in flags_1_2_1.json, with its source.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard_build.errors import BuildFailed

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("flags_1_2_1.json").read_bytes())
VERSION: str = _TABLE["version"]
"""The one TensorRT-LLM that slots are built and served with."""


def check(tool: str, arguments: Sequence[str]) -> None:
    """Checks `--name value ...` of a tool. Raises BuildFailed for the first that it can't take."""
    known = _TABLE[tool]
    waiting = list(arguments)
    while waiting:
        flag = waiting.pop(0)
        name = flag.removeprefix("--")
        if flag == name or name not in known:
            raise BuildFailed(f"{tool} of TensorRT-LLM {VERSION} has no flag {flag}.")
        kind = known[name]
        if kind == "switch":
            continue
        if not waiting:
            raise BuildFailed(f"{tool} {flag} lacks its value.")
        value = waiting.pop(0)
        if isinstance(kind, list) and value not in kind:
            raise BuildFailed(f"{tool} {flag} takes one of {', '.join(kind)}; not {value}.")
        if kind == "int" and not value.isdecimal():
            raise BuildFailed(f"{tool} {flag} takes a whole number; not {value}.")
    _check_conflicts(tool, set(arguments))


def _check_conflicts(tool: str, given: set[str]) -> None:
    """Pairs that the tool refuses itself, minutes later."""
    if {"--multiple_profiles", "--opt_num_tokens"} <= given:
        raise BuildFailed(f"{tool}: --opt_num_tokens conflicts with --multiple_profiles.")
    if {"--gather_context_logits", "--max_draft_len"} <= given:
        raise BuildFailed(f"{tool}: --gather_context_logits conflicts with --max_draft_len.")
