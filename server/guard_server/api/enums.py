"""The contract's numbers for the domain's words, in one place."""

from guard_core.verdict.policy import Action
from guard_core.verdict.prompt import ASSISTANT, SYSTEM, USER
from qwen3guard.v1 import types_pb2

ROLES = {
    types_pb2.ROLE_SYSTEM: SYSTEM,
    types_pb2.ROLE_USER: USER,
    types_pb2.ROLE_ASSISTANT: ASSISTANT,
}
SEVERITIES = {
    "Safe": types_pb2.SEVERITY_SAFE,
    "Controversial": types_pb2.SEVERITY_CONTROVERSIAL,
    "Unsafe": types_pb2.SEVERITY_UNSAFE,
}
CATEGORIES = {
    "Violent": types_pb2.CATEGORY_VIOLENT,
    "Non-violent Illegal Acts": types_pb2.CATEGORY_NON_VIOLENT_ILLEGAL_ACTS,
    "Sexual Content or Sexual Acts": types_pb2.CATEGORY_SEXUAL_CONTENT,
    "PII": types_pb2.CATEGORY_PII,
    "Suicide & Self-Harm": types_pb2.CATEGORY_SUICIDE_AND_SELF_HARM,
    "Unethical Acts": types_pb2.CATEGORY_UNETHICAL_ACTS,
    "Politically Sensitive Topics": types_pb2.CATEGORY_POLITICALLY_SENSITIVE,
    "Copyright Violation": types_pb2.CATEGORY_COPYRIGHT_VIOLATION,
    "Jailbreak": types_pb2.CATEGORY_JAILBREAK,
}
CATEGORY_NAMES = {number: name for name, number in CATEGORIES.items()}
REFUSALS = {True: types_pb2.REFUSAL_YES, False: types_pb2.REFUSAL_NO}
ACTIONS = {
    Action.ALLOW: types_pb2.ACTION_ALLOW,
    Action.REVIEW: types_pb2.ACTION_REVIEW,
    Action.BLOCK: types_pb2.ACTION_BLOCK,
}
ACTION_OF = {number: action for action, number in ACTIONS.items()}
CONTROVERSIAL = {
    types_pb2.CONTROVERSIAL_TREATMENT_UNSPECIFIED: Action.BLOCK,
    types_pb2.CONTROVERSIAL_TREATMENT_STRICT: Action.BLOCK,
    types_pb2.CONTROVERSIAL_TREATMENT_LOOSE: Action.ALLOW,
    types_pb2.CONTROVERSIAL_TREATMENT_REVIEW: Action.REVIEW,
}
