"""Times and bounds that are no settings: they are fixed, but for tests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Times are seconds."""

    probe_s: float = 10.0  # without any answer, to this probe or another request: out
    first_slot_s: float = 5.0  # a supervised worker's callers wait so long for its first slot
    certificates_s: float = 5.0  # between two readings of the listener's certificate files
    # Requests on their way get a rejection. Clients retry for 1.5 s.
    rejecting_s: float = 0.3
    last_answers_s: float = 5.0  # for answers that are written but not yet sent
    live_idle_s: float = 60.0  # ModerateLive: between two parts, or to write a reply
    live_longest_s: float = 900.0  # and from the first part to the last
    live_away_s: float = 5.0  # and without an engine
    remembered_ids: int = 10_000  # answered ones of a stream, beside those in flight
