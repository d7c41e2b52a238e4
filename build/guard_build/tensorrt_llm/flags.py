"""Checks command lines against the flags and value types of TensorRT-LLM's tools.

trtllm-build ignores plugin keys that it doesn't know, so that a typo would have no effect. The
table is in flags_1_2_1.json, with its source.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard_build.errors import BuildFailed

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("flags_1_2_1.json").read_bytes())
VERSION: str = _TABLE["version"]
"""The only TensorRT-LLM version that builds and serves slots."""


def check(tool: str, arguments: Sequence[str]) -> None:
    """Checks a tool's `--name value ...`. Raises BuildFailed for the first invalid argument."""
    try:
        _check(tool, arguments)
    except _Invalid as error:
        raise BuildFailed(f"{error} Correct tensorrt_llm/commands.py, which wrote it.") from None


class _Invalid(Exception):
    """An argument that the tool would refuse, or ignore."""


def _check(tool: str, arguments: Sequence[str]) -> None:
    known = _TABLE[tool]
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        name = flag.removeprefix("--")
        if flag == name or name not in known:
            raise _Invalid(f"{tool} of TensorRT-LLM {VERSION} has no flag {flag}.")
        kind = known[name]
        if kind == "switch":
            continue
        if not rest:
            raise _Invalid(f"{tool} {flag} lacks its value.")
        value = rest.pop(0)
        if isinstance(kind, list) and value not in kind:
            raise _Invalid(f"{tool} {flag} takes one of {', '.join(kind)}; not {value}.")
        if kind == "int" and not value.isdecimal():
            raise _Invalid(f"{tool} {flag} takes a whole number; not {value}.")
    _check_conflicts(tool, set(arguments))


def _check_conflicts(tool: str, given: set[str]) -> None:
    """Raises _Invalid for pairs of flags that the tool would reject minutes later."""
    if {"--multiple_profiles", "--opt_num_tokens"} <= given:
        raise _Invalid(f"{tool}: --opt_num_tokens conflicts with --multiple_profiles.")
    if {"--gather_context_logits", "--max_draft_len"} <= given:
        raise _Invalid(f"{tool}: --gather_context_logits conflicts with --max_draft_len.")
