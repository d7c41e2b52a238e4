"""The words of Qwen3Guard-Gen's verdicts: severities and categories, as the model writes them."""

from enum import StrEnum


class Severity(StrEnum):
    """How harmful the judged message is, from the mildest to the worst."""

    SAFE = "Safe"
    CONTROVERSIAL = "Controversial"
    UNSAFE = "Unsafe"


class Category(StrEnum):
    """Kinds of harm; the names are those of the contract's enum."""

    VIOLENT = "Violent"
    NON_VIOLENT_ILLEGAL_ACTS = "Non-violent Illegal Acts"
    SEXUAL_CONTENT = "Sexual Content or Sexual Acts"
    PII = "PII"
    SUICIDE_AND_SELF_HARM = "Suicide & Self-Harm"
    UNETHICAL_ACTS = "Unethical Acts"
    POLITICALLY_SENSITIVE = "Politically Sensitive Topics"
    COPYRIGHT_VIOLATION = "Copyright Violation"
    JAILBREAK = "Jailbreak"


SEVERITIES = tuple(Severity)
CATEGORIES = tuple(Category)
