"""Every way a request or a slot can fail. guard_server.status_codes has each one's gRPC status.

GuardError
├── RequestInvalid        the caller's input, with the fields at fault
├── Unauthenticated       the caller shows no key that holds, where it must or did show one
├── SlotNotAllowed        a slot was chosen where only operators may
├── CallerNotAllowed      the caller's certificate has none of the names that are let in
├── SlotUnknown           a slot was chosen that does not exist
├── ModelUnknown          KServe's API has one model, and another one or version was named
├── Overloaded            rejected by the concurrency limiter; carries when to retry
├── QuotaExceeded         more than the caller's tenant may have; carries when to retry, if ever
├── DeadlinePassed        no verdict within the server's bound
├── Unavailable           no engine to ask, or the server is stopping
├── EngineFailed          the engine answered with an error
├── VerdictUngrammatical  the model wrote something that is no verdict
└── ServerFault           a defect of ours
SlotInvalid               a slot's files are wrong: refused before serving
TrafficInvalid            traffic.json is wrong: refused, and the last good one is followed
CertificateInvalid        a listener's certificate files are wrong: refused in the same way
TenantsInvalid            keys.json or tenants.json is wrong: refused in the same way
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog

# A status travels in the trailers, which carry no more than 8 KiB: its text percent-encoded, its
# details in base64, with the text and the violations in them.
_MAX_VIOLATIONS = 10
_MAX_VIOLATIONS_BYTES = 1_600
_MAX_TEXT_BYTES = 1_000
_MAX_QUOTED = 100

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with one field; `field` is a path such as `conversation[2].content`."""

    field: str
    description: str


def quoted(words: str) -> str:
    """A caller's words, as errors quote them: at most 100 characters, all of which are Unicode's.

    JSON can spell half a surrogate pair, which no status could carry.
    """
    text = words[:_MAX_QUOTED].encode("utf-8", "backslashreplace").decode()
    cut = len(words) > _MAX_QUOTED or len(text) > _MAX_QUOTED
    return f"{text[: _MAX_QUOTED - 3]}..." if cut else text


def fitting(text: str) -> str:
    """A text as far as a status has room for it: 1,000 bytes."""
    return text.encode(errors="replace")[:_MAX_TEXT_BYTES].decode(errors="ignore")


class GuardError(Exception):
    """A request that got no verdict. The text says what happened and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(fitting(text))


class RequestInvalid(GuardError):
    def __init__(self, violations: Sequence[Violation]) -> None:
        first, more = violations[0], len(violations) - 1
        text = f"{first.field}: {first.description}"
        super().__init__(f"{text} (and {more} more)" if more else text)
        self.violations = tuple(_that_fit(violations))


class Unauthenticated(GuardError):
    pass


class SlotNotAllowed(GuardError):
    pass


class CallerNotAllowed(GuardError):
    pass


class SlotUnknown(GuardError):
    pass


class ModelUnknown(GuardError):
    pass


class Overloaded(GuardError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class QuotaExceeded(GuardError):
    def __init__(self, message: str, subject: str, quota: str, retry_after: float | None) -> None:
        """`retry_after`: seconds; None if the request alone is more than the quota."""
        super().__init__(message)
        self.subject = subject
        self.quota = quota
        self.retry_after = retry_after


class DeadlinePassed(GuardError):
    pass


class Unavailable(GuardError):
    pass


class EngineFailed(GuardError):
    pass


class VerdictUngrammatical(GuardError):
    pass


class ServerFault(GuardError):
    pass


class SlotInvalid(Exception):
    """A slot that can't be served: its files are missing, wrong, or not what it was built with."""


class TrafficInvalid(Exception):
    """A traffic file that can't be followed."""


class TenantsInvalid(Exception):
    """A file of callers' keys, or of tenants, that can't be followed."""


class CertificateInvalid(Exception):
    """A certificate, key or list of authorities with which no connection would succeed."""


def _that_fit(violations: Sequence[Violation]) -> Iterator[Violation]:
    """The first ones, at most 10, as far as a status has room for them."""
    left = _MAX_VIOLATIONS_BYTES
    for violation in violations[:_MAX_VIOLATIONS]:
        left -= len(violation.field.encode()) + len(violation.description.encode())
        if left < 0:
            return
        yield violation


def known_error(error: Exception, tenant: str = "") -> GuardError:
    """The error as a GuardError. Any other exception is a defect of ours, and logged as one.

    `tenant`: whose request it was, if that is known.
    """
    if isinstance(error, GuardError):
        return error
    _log.error("unexpected error", exc_info=error, **({"tenant": tenant} if tenant else {}))
    return ServerFault("The server failed. Nothing was judged; its log says more.")
