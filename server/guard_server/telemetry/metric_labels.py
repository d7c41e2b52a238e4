"""The labels of all metrics, with their bounds: no caller can make a label or a value of one."""

from guard_core.live.live_session import StopReason
from guard_core.verdict.taxonomy import SEVERITIES
from guard_server.pipeline.live_events import CheckKind, HoldEnd, TokenKind
from guard_server.pipeline.result import Stage
from guard_server.status_codes import STATUS_CODES
from guard_server.telemetry.described import Label

CACHED = "cache"  # the station of verdicts without an engine call
MOST_REPLICAS = 64  # of a slot
CODES = frozenset({"OK", "CANCELLED", *(code.name for code in STATUS_CODES.values())})
_MODERATION = ("Moderate", "BatchModerate", "StreamModerate", "ModerateLive")
METHODS = frozenset({*_MODERATION, "ModelInfer", "ModelStreamInfer"})


METHOD = Label("method", "the API's methods", METHODS)
CODE = Label("code", "gRPC's status codes that the gateway gives", CODES)
SEVERITY = Label(
    "severity", "the severities; empty without a verdict", frozenset({"", *SEVERITIES})
)
SHADOW = Label("shadow_severity", "the severities", frozenset(SEVERITIES))
STATION = Label("station", "the stages, and `cache`", frozenset({*Stage, CACHED}))
SIDE = Label("side", "`shadow`, `answer`", frozenset({"shadow", "answer"}))
CHECK = Label("kind", "of a live check", frozenset(CheckKind))
TOKENS = Label("kind", "of tokens: `answer`, `computed`", frozenset(TokenKind))
HOLD_END = Label("end", "of a hold", frozenset(HoldEnd))
REASON = Label("reason", "`confirmed`, `score`", frozenset(StopReason))
SLOT = Label("slot", "the slots that had traffic; empty where no slot was asked")
OF_SLOT = Label("slot", "the slots that run")
MODEL = tuple(
    Label(name, "one for each slot that runs")
    for name in ("model", "fingerprint", "engine", "weights")
)
REPLICA = Label("replica", f"addresses of the slot's Tritons, {MOST_REPLICAS} of a slot at most")
TENANT = Label("tenant", "tenants with `metrics` in tenants.json, 50 at most; `others`")
VERSION = Label("version", "one")
