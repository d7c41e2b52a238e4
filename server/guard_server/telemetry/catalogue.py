"""All metrics: names, labels with their bounds, meanings. docs/metrics.md is made from this.

A metric is used by its name here, so one that is not described can't be served.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from guard_core.verdict.taxonomy import SEVERITIES
from guard_server.pipeline.result import Stage
from guard_server.status_codes import STATUS_CODES

CACHED = "cache"  # the station of verdicts without an engine call
MOST_REPLICAS = 64  # of a slot
CODES = frozenset({"OK", "CANCELLED", *(code.name for code in STATUS_CODES.values())})
_MODERATION = ("Moderate", "BatchModerate", "StreamModerate", "ModerateLive")
METHODS = frozenset({*_MODERATION, "ModelInfer", "ModelStreamInfer"})


class Joined(StrEnum):
    """What one figure of several gateway processes is."""

    SUM = "sum"
    LEAST = "least"
    MOST = "most"


@dataclass(frozen=True, slots=True)
class Label:
    """`values`: all that there are; None: as many as the slots that run, or the server, have."""

    name: str
    bound: str
    values: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. `name` is without the `_total` that counters have where they are served."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[Label, ...] = ()
    joined: Joined = Joined.SUM

    @property
    def served(self) -> str:
        """The name in PromQL."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_METHOD = Label("method", "the API's methods", METHODS)
_CODE = Label("code", "gRPC's status codes that the gateway gives", CODES)
_SEVERITY = Label(
    "severity", "the severities; empty without a verdict", frozenset({"", *SEVERITIES})
)
_SHADOW = Label("shadow_severity", "the severities", frozenset(SEVERITIES))
_STATION = Label("station", "the stages, and `cache`", frozenset({*Stage, CACHED}))
_SIDE = Label("side", "`shadow`, `answer`", frozenset({"shadow", "answer"}))
_SLOT = Label("slot", "the slots that had traffic; empty where no slot was asked")
_OF_SLOT = Label("slot", "the slots that run")
_MODEL = tuple(
    Label(name, "one for each slot that runs")
    for name in ("model", "fingerprint", "engine", "weights")
)
_REPLICA = Label("replica", f"addresses of the slot's Tritons, {MOST_REPLICAS} of a slot at most")
_VERSION = Label("version", "one")

_REQUESTS = (
    Described(
        "guard_requests",
        "counter",
        "Conversations answered, refused or checked live. `slot`: that answered, or asked last.",
        (_METHOD, _CODE, _SEVERITY, _SLOT),
    ),
    Described(
        "guard_request_seconds",
        "histogram",
        "From a conversation's arrival to its verdict or error.",
        (_METHOD, _CODE, _SLOT),
    ),
    Described(
        "guard_station_seconds",
        "histogram",
        "Time of judged conversations by stage; `cache`: of a verdict from the cache or from an "
        "equal request in flight, which has no `engine`.",
        (_STATION, _SLOT),
    ),
    Described("guard_cached_verdicts", "counter", "Verdicts without an engine call.", (_SLOT,)),
    Described(
        "guard_shed_requests",
        "counter",
        "Requests rejected because the queue was full or their deadline could not be met.",
        (_SLOT,),
    ),
    Described(
        "guard_failovers",
        "counter",
        "Requests that this slot failed as UNAVAILABLE and that another slot was asked then.",
        (_SLOT,),
    ),
)
_DECODING = (
    Described("guard_engine_calls", "counter", "Engine calls that gave verdicts.", (_SLOT,)),
    Described("guard_draft_tokens", "counter", "Draft tokens sent to be verified.", (_SLOT,)),
    Described(
        "guard_accepted_draft_tokens", "counter", "Draft tokens the model agreed to.", (_SLOT,)
    ),
    Described(
        "guard_grammar_complete_verdicts",
        "counter",
        "Verdicts whose end token was not awaited.",
        (_SLOT,),
    ),
    Described("guard_grammar_failures", "counter", "Outputs that are no verdict.", (_SLOT,)),
)
_SHADOWS = (
    Described(
        "guard_shadow_verdicts",
        "counter",
        "Requests judged by the shadow too, by what the caller got and what it found.",
        (_SLOT, _SEVERITY, _SHADOW),
    ),
    Described(
        "guard_shadow_agreed_verdicts",
        "counter",
        "Of these, with equal severity, categories and refusal.",
        (_SLOT,),
    ),
    Described(
        "guard_shadow_seconds",
        "histogram",
        "Of the same requests: the shadow's time, and that of the caller's verdict.",
        (_SLOT, _SIDE),
    ),
    Described(
        "guard_shadow_dropped",
        "counter",
        "Requests not shadowed because no spare capacity was left.",
        (_SLOT,),
    ),
    Described(
        "guard_shadow_failures", "counter", "Requests that the shadow could not judge.", (_SLOT,)
    ),
)
_STATE = (
    Described(
        "guard_slot_ready",
        "gauge",
        "1 if every gateway process gets verdicts from the slot, else 0.",
        (_OF_SLOT,),
        Joined.LEAST,
    ),
    Described(
        "guard_slot_weight",
        "gauge",
        "The slot's traffic weight, beside the other slots'.",
        (_OF_SLOT,),
        Joined.MOST,
    ),
    Described("guard_in_flight", "gauge", "Requests in flight to the engine.", (_OF_SLOT,)),
    Described("guard_queued", "gauge", "Requests queued by the concurrency limiter.", (_OF_SLOT,)),
    Described(
        "guard_limit",
        "gauge",
        "Requests in flight that the slot's ready replicas take from the gateways.",
        (_OF_SLOT,),
    ),
    Described(
        "guard_model_info",
        "gauge",
        "1: the slot's model, the fingerprint of its manifest, its engine and its weights' format.",
        (_OF_SLOT, *_MODEL),
        Joined.MOST,
    ),
    Described(
        "guard_traffic_generation",
        "gauge",
        "Generation of the traffic that every gateway process follows.",
        joined=Joined.LEAST,
    ),
    Described("guard_build_info", "gauge", "1: the server's version.", (_VERSION,), Joined.MOST),
    Described(
        "guard_cache_bytes",
        "gauge",
        "Memory that the verdict cache counts for its entries, of at most `--cache-mib` for each "
        "gateway process.",
    ),
    Described(
        "guard_cache_evictions",
        "counter",
        "Verdicts dropped for newer ones because the cache was full.",
    ),
    Described(
        "guard_certificate_days_left",
        "gauge",
        "Until the certificate that is served expires.",
        joined=Joined.LEAST,
    ),
    Described(
        "guard_certificate_faults",
        "gauge",
        "Gateway processes whose certificate files can't be used: they serve older ones.",
    ),
)
_REPLICAS = (
    Described(
        "guard_replica_ready",
        "gauge",
        "1 if every gateway process gets verdicts from the slot's Triton at that address, else 0.",
        (_OF_SLOT, _REPLICA),
        Joined.LEAST,
    ),
    Described("guard_replica_in_flight", "gauge", "Engine calls in flight.", (_OF_SLOT, _REPLICA)),
    Described(
        "guard_replica_limit",
        "gauge",
        "Engine calls in flight at most: it moves by the engine's queue time.",
        (_OF_SLOT, _REPLICA),
    ),
    Described(
        "guard_replica_seconds_per_token",
        "gauge",
        "By which a replica is chosen; of several gateway processes the highest.",
        (_OF_SLOT, _REPLICA),
        Joined.MOST,
    ),
    Described("guard_replica_ejections", "counter", "Times it was lost.", (_OF_SLOT, _REPLICA)),
    Described(
        "guard_replica_retries",
        "counter",
        "Engine calls that it failed and that another replica was asked then.",
        (_OF_SLOT, _REPLICA),
    ),
)
_PROCESSES = (
    Described("process_cpu_seconds", "counter", "Processor time, user and system."),
    Described("process_resident_memory_bytes", "gauge", "Memory in RAM."),
    Described("process_virtual_memory_bytes", "gauge", "Address space."),
    Described("process_open_fds", "gauge", "Open file descriptors."),
    Described("process_max_fds", "gauge", "The limit of these for one process.", (), Joined.LEAST),
    Described("process_start_time_seconds", "gauge", "Start, since 1970.", (), Joined.LEAST),
)

SECTIONS: Mapping[str, Sequence[Described]] = {
    "Requests": _REQUESTS,
    "Decoding": _DECODING,
    "State": _STATE,
    "Replicas": _REPLICAS,
    "Shadow": _SHADOWS,
    "Gateway processes": _PROCESSES,
}
CATALOGUE: Mapping[str, Described] = {
    one.name: one for section in SECTIONS.values() for one in section
}
