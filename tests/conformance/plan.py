"""What every language's runner executes: the cases of this folder, written out, and where to."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from qwen3guard.v1.moderation_pb2 import ModerateRequest

CASES = Path(__file__).parent
QUIET = CASES / "quiet"  # cases that only wait
_TIMEOUT_S = 60.0


def cases(folder: Path = CASES) -> list[dict[str, Any]]:
    """Every case of a folder with every key, in a fixed order.

    name, server; call: moderate, batch, stream or live; tls: whether the client uses it; metadata:
    what goes with the call; key: "good" or "revoked", a key of the server's that the client has,
    or "" for none; requests: ModerateRequest in JSON, its wire bytes as a string in
    base64, or a chat program's list of messages; timeout_s of a moderate or batch; item_timeout_s
    of a stream's request, 0 if none; cancel_after_s, 0 if not;
    token_kib: size of the token that each call carries, 0 if none; quiet_s: a stream's last request
    comes so many seconds after the others;
    leave_after: leave the stream after so many outcomes, 0 if not; expect: for each request what
    its outcome holds, {"response": part, "printed": its action as text} or {"error": part}, where
    null is absent, "*" anything that is present and "a|b" either, and an error's message holds what
    it "says"; order: the indexes of the first outcomes; ends: the error of the whole call, or null.

    Of a live call: start: LiveStart in JSON; texts: parts of the answer, each of which comes after
    the event of the one before, and the end after that of the last; expect: for each event its
    text and a part of its reply, {"text": text, "reply": part}.
    """
    default = {
        "requests": [],
        "timeout_s": _TIMEOUT_S,
        "item_timeout_s": 0,
        "metadata": {},
        "key": "",
        "cancel_after_s": 0,
        "leave_after": 0,
        "token_kib": 0,
        "quiet_s": 0,
        "expect": [],
        "order": [],
        "start": {},
        "texts": [],
        "ends": None,
    }
    found = [
        default | {"tls": case["server"] == "tls"} | case
        for path in sorted(folder.glob("*.json"))
        for case in _written_out(json.loads(path.read_text(encoding="utf-8")))
    ]
    assert len({case["name"] for case in found}) == len(found)
    return found


def write(
    path: Path,
    servers: dict[str, str],
    authority: Path,
    folder: Path = CASES,
    keys: Mapping[str, str] = {},
) -> Path:
    """One runner's plan: a folder's cases. Gives the file for the names of those that pass.

    `keys`: what the cases' words for them stand for.
    """
    passed = path.with_suffix(".passed.json")
    plan = {
        "servers": servers,
        "authority": str(authority),
        "passed": str(passed),
        "cases": [case | {"key": keys.get(case["key"], "")} for case in cases(folder)],
    }
    path.write_text(json.dumps(plan), encoding="utf-8")
    return passed


def _written_out(value: Any) -> Any:
    """Short forms: {"$repeat": text, "$times": n}, and in a list {"$of": item with "{n}", ...}.

    {"$newer": request, "$at": path}: wire bytes with field 1000 in one of the request's messages.
    """
    if isinstance(value, list):
        return [
            item
            for part in value
            for item in (
                [_numbered(_written_out(part["$of"]), n) for n in range(part["$times"])]
                if isinstance(part, dict) and "$of" in part
                else [_written_out(part)]
            )
        ]
    if isinstance(value, dict):
        if "$repeat" in value:
            return value["$repeat"] * value["$times"]
        if "$newer" in value:
            return base64.b64encode(_newer(value["$newer"], value["$at"])).decode()
        return {key: _written_out(item) for key, item in value.items()}
    return value


def _newer(request: dict[str, Any], path: str) -> bytes:
    """The request as a client of a newer contract would send it."""
    whole = ParseDict(request, ModerateRequest())
    message: Any = whole
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", path):
        message = getattr(message, name)
        message = message[int(index)] if index else message
    message.MergeFromString(b"\xc2\x3e\x04text")
    return whole.SerializeToString()


def _numbered(value: Any, number: int) -> Any:
    return json.loads(json.dumps(value).replace("{n}", str(number)))
