"""All metrics: names, labels with their bounds, meanings. docs/metrics.md is made from this.

A metric is used by its name here, so one that is not described can't be served.
"""

from collections.abc import Mapping, Sequence

from guard_server.telemetry.described import Described, Joined
from guard_server.telemetry.metric_labels import (
    CHECK,
    CODE,
    HOLD_END,
    METHOD,
    MODEL,
    OF_SLOT,
    REASON,
    REPLICA,
    SEVERITY,
    SHADOW,
    SIDE,
    SLOT,
    STATION,
    TOKENS,
    VERSION,
)
from guard_server.telemetry.tenant_catalogue import TENANTS

_REQUESTS = (
    Described(
        "guard_requests",
        "counter",
        "Conversations answered, refused or checked live. `slot`: that answered, or asked last.",
        (METHOD, CODE, SEVERITY, SLOT),
    ),
    Described(
        "guard_request_seconds",
        "histogram",
        "From a conversation's arrival to its verdict or error.",
        (METHOD, CODE, SLOT),
    ),
    Described(
        "guard_station_seconds",
        "histogram",
        "Time of judged conversations by stage; `cache`: of a verdict from the cache or from an "
        "equal request in flight, which has no `engine`.",
        (STATION, SLOT),
    ),
    Described("guard_cached_verdicts", "counter", "Verdicts without an engine call.", (SLOT,)),
    Described(
        "guard_shed_requests",
        "counter",
        "Requests rejected because the queue was full or their deadline could not be met.",
        (SLOT,),
    ),
    Described(
        "guard_failovers",
        "counter",
        "Requests that this slot failed as UNAVAILABLE and that another slot was asked then.",
        (SLOT,),
    ),
)
_DECODING = (
    Described("guard_engine_calls", "counter", "Engine calls that gave verdicts.", (SLOT,)),
    Described("guard_draft_tokens", "counter", "Draft tokens sent to be verified.", (SLOT,)),
    Described(
        "guard_accepted_draft_tokens", "counter", "Draft tokens the model agreed to.", (SLOT,)
    ),
    Described(
        "guard_grammar_complete_verdicts",
        "counter",
        "Verdicts whose end token was not awaited.",
        (SLOT,),
    ),
    Described("guard_grammar_failures", "counter", "Outputs that are no verdict.", (SLOT,)),
)
_LIVE = (
    Described("guard_live_sessions", "gauge", "Open `ModerateLive` calls."),
    Described(
        "guard_live_checks",
        "counter",
        "Checks of answers that are judged while they are written, and of their prompts.",
        (SLOT, CHECK, CODE),
    ),
    Described(
        "guard_live_coalesced",
        "counter",
        "Steps of the cadence without a check of their own: a longer beginning was due by then.",
        (SLOT,),
    ),
    Described(
        "guard_live_lag_seconds",
        "histogram",
        "From the arrival of the oldest text that a verdict cleared to that verdict.",
        (SLOT,),
    ),
    Described("guard_live_holds", "counter", "Holds, by what ended them.", (SLOT, HOLD_END)),
    Described("guard_live_stops", "counter", "Answers stopped before their end.", (SLOT, REASON)),
    Described(
        "guard_live_retracted",
        "counter",
        "Answers allowed as a whole of which a beginning was blocked: false alarms.",
        (SLOT,),
    ),
    Described(
        "guard_live_late",
        "counter",
        "Answers blocked as a whole after their last checked beginning was cleared: misses.",
        (SLOT,),
    ),
    Described(
        "guard_live_tokens",
        "counter",
        "Tokens of answers that were judged, and tokens that the engine computed for them.",
        (SLOT, TOKENS),
    ),
)
_SHADOWS = (
    Described(
        "guard_shadow_verdicts",
        "counter",
        "Requests judged by the shadow too, by what the caller got and what it found.",
        (SLOT, SEVERITY, SHADOW),
    ),
    Described(
        "guard_shadow_agreed_verdicts",
        "counter",
        "Of these, with equal severity, categories and refusal.",
        (SLOT,),
    ),
    Described(
        "guard_shadow_seconds",
        "histogram",
        "Of the same requests: the shadow's time, and that of the caller's verdict.",
        (SLOT, SIDE),
    ),
    Described(
        "guard_shadow_dropped",
        "counter",
        "Requests not shadowed because no spare capacity was left.",
        (SLOT,),
    ),
    Described(
        "guard_shadow_failures", "counter", "Requests that the shadow could not judge.", (SLOT,)
    ),
)


def _of_certificate(begins: str, which: str) -> Sequence[Described]:
    days = f"Until the certificate {which} expires."
    faults = f"Gateway processes that can't use the files of the certificate {which}"
    return (
        Described(f"{begins}_days_left", "gauge", days, joined=Joined.LEAST),
        Described(f"{begins}_faults", "gauge", f"{faults}: they keep the last good one."),
    )


_STATE = (
    Described(
        "guard_slot_ready",
        "gauge",
        "1 if every gateway process gets verdicts from the slot, else 0.",
        (OF_SLOT,),
        Joined.LEAST,
    ),
    Described(
        "guard_slot_weight",
        "gauge",
        "The slot's traffic weight, beside the other slots'.",
        (OF_SLOT,),
        Joined.MOST,
    ),
    Described("guard_in_flight", "gauge", "Requests in flight to the engine.", (OF_SLOT,)),
    Described("guard_queued", "gauge", "Requests queued by the concurrency limiter.", (OF_SLOT,)),
    Described(
        "guard_limit",
        "gauge",
        "Requests in flight that the slot's ready replicas take from the gateways.",
        (OF_SLOT,),
    ),
    Described(
        "guard_model_info",
        "gauge",
        "1: the slot's model, the fingerprint of its manifest, its engine and its weights' format.",
        (OF_SLOT, *MODEL),
        Joined.MOST,
    ),
    Described(
        "guard_traffic_generation",
        "gauge",
        "Generation of the traffic that every gateway process follows.",
        joined=Joined.LEAST,
    ),
    Described("guard_build_info", "gauge", "1: the server's version.", (VERSION,), Joined.MOST),
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
    *_of_certificate("guard_certificate", "of the listener"),
    *_of_certificate("guard_triton_certificate", "shown to Tritons"),
)
_REPLICAS = (
    Described(
        "guard_replica_ready",
        "gauge",
        "1 if every gateway process gets verdicts from the slot's Triton at that address, else 0.",
        (OF_SLOT, REPLICA),
        Joined.LEAST,
    ),
    Described("guard_replica_in_flight", "gauge", "Engine calls in flight.", (OF_SLOT, REPLICA)),
    Described(
        "guard_replica_limit",
        "gauge",
        "Engine calls in flight at most: it moves by the engine's queue time.",
        (OF_SLOT, REPLICA),
    ),
    Described(
        "guard_replica_seconds_per_token",
        "gauge",
        "By which a replica is chosen; of several gateway processes the highest.",
        (OF_SLOT, REPLICA),
        Joined.MOST,
    ),
    Described("guard_replica_ejections", "counter", "Times it was lost.", (OF_SLOT, REPLICA)),
    Described(
        "guard_replica_retries",
        "counter",
        "Engine calls that it failed and that another replica was asked then.",
        (OF_SLOT, REPLICA),
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
    "Live moderation": _LIVE,
    "State": _STATE,
    "Replicas": _REPLICAS,
    "Tenants": TENANTS,
    "Shadow": _SHADOWS,
    "Gateway processes": _PROCESSES,
}
CATALOGUE: Mapping[str, Described] = {
    one.name: one for section in SECTIONS.values() for one in section
}
