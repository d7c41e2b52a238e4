"""Validates requests and reports every violation. Nothing that the template would drop is cut."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from guard_core.conversation import (
    MAX_MESSAGES,
    Message,
    Role,
    count_violation,
    role_violations,
    size_violation,
)
from guard_core.errors import RequestInvalid, Violation
from guard_core.verdict.policy import Policy
from guard_server.api import enums
from guard_server.pipeline.request import ModerationRequest
from qwen3guard.v1 import moderation_pb2, types_pb2

MAX_BATCH_ITEMS = 256
MAX_BATCH_BYTES = 2_097_152
# The largest request is a batch. A bit more is read, so that a larger one is refused by its name.
MAX_MESSAGE_BYTES = MAX_BATCH_BYTES + 524_288
MAX_ID_BYTES = 128
MAX_ROUTING_KEY_BYTES = 128


def moderation_request(
    message: moderation_pb2.ModerateRequest, found: Iterable[Violation] = ()
) -> ModerationRequest:
    """Checks a request. Raises RequestInvalid with every violation, those `found` before first."""
    # A message can hold a million turns: beyond this number only the number is refused.
    turns = message.conversation[:MAX_MESSAGES]
    roles = [enums.ROLE_OF.get(turn.role) for turn in turns]
    contents = [turn.content for turn in turns]
    policy = message.policy if message.HasField("policy") else None
    violations = list(found)
    unreadable = {violation.field for violation in violations}
    violations += (
        v
        for v in _conversation(len(message.conversation), roles, contents)
        if v.field not in unreadable
    )
    if policy is not None:
        violations += _policy(policy)
        if message.policy_name:
            violations.append(
                Violation("policy_name", "is there beside `policy`: send one of them.")
            )
    if message.markers not in enums.MARKERS:
        violations.append(
            Violation("markers", f"{message.markers} is not a treatment that this server knows.")
        )
    if len(message.routing_key.encode()) > MAX_ROUTING_KEY_BYTES:
        violations.append(
            Violation("routing_key", f"must be at most {MAX_ROUTING_KEY_BYTES} bytes of UTF-8.")
        )
    if violations:
        raise RequestInvalid(violations)
    return ModerationRequest(
        tuple(Message(role, text) for role, text in zip(roles, contents, strict=True) if role),
        None if policy is None else _read_policy(policy),
        message.policy_name,
        message.with_scores,
        message.slot,
        message.routing_key,
        enums.MARKERS[message.markers],
    )


def _read_policy(policy: types_pb2.Policy) -> Policy:
    return Policy(
        enums.CONTROVERSIAL[policy.controversial],
        {
            enums.CATEGORY_OF[rule.category]: enums.ACTION_OF[rule.action]
            for rule in policy.category_rules
        },
    )


def batch(request: moderation_pb2.BatchModerateRequest, found: Iterable[Violation]) -> None:
    """Checks a batch's own bounds, not its items. Raises RequestInvalid."""
    violations = list(found)
    if not 1 <= len(request.items) <= MAX_BATCH_ITEMS:
        violations.append(
            Violation("items", f"has {len(request.items)} items; send 1 to {MAX_BATCH_ITEMS}.")
        )
    size = request.ByteSize()
    if size > MAX_BATCH_BYTES:
        violations.append(
            Violation(
                "items",
                f"hold {size} bytes; at most {MAX_BATCH_BYTES}. Send smaller batches, or a stream.",
            )
        )
    if violations:
        raise RequestInvalid(violations)


def stream_id(request: moderation_pb2.StreamModerateRequest, found: Iterable[Violation]) -> None:
    """Checks the form of a stream request's id. Raises RequestInvalid."""
    violations = list(found)
    if not 1 <= len(request.id.encode()) <= MAX_ID_BYTES:
        violations.append(Violation("id", f"must be 1 to {MAX_ID_BYTES} bytes of UTF-8."))
    if violations:
        raise RequestInvalid(violations)


def _conversation(
    count: int, roles: Sequence[Role | None], contents: Sequence[str]
) -> Iterable[Violation]:
    if wrong_count := count_violation(count):
        yield Violation("conversation", wrong_count)
        return
    too_much = size_violation(contents)
    wrong_roles = defaultdict(list)
    for at, what in role_violations(roles):
        wrong_roles[at].append(what)
    for index, content in enumerate(contents):
        for what in wrong_roles.get(index, ()):
            yield Violation(f"conversation[{index}].role", what)
        if not content:
            yield Violation(
                f"conversation[{index}].content", "is empty: there is nothing to judge."
            )
    if too_much:
        yield Violation("conversation", too_much)


def _policy(policy: types_pb2.Policy) -> Iterable[Violation]:
    if policy.controversial not in enums.CONTROVERSIAL:
        yield Violation(
            "policy.controversial",
            f"{policy.controversial} is not a treatment that this server knows.",
        )
    if len(policy.category_rules) > len(enums.CATEGORIES):
        yield Violation(
            "policy.category_rules",
            f"has {len(policy.category_rules)} rules; there are {len(enums.CATEGORIES)} "
            "categories. Give each at most one.",
        )
        return
    seen = set()
    for index, rule in enumerate(policy.category_rules):
        here = f"policy.category_rules[{index}]"
        if rule.category not in enums.CATEGORY_OF:
            yield Violation(f"{here}.category", f"{rule.category} is not a category; name one.")
        elif rule.category in seen:
            yield Violation(f"{here}.category", "has a rule already; give each category one.")
        seen.add(rule.category)
        if rule.action not in enums.ACTION_OF:
            yield Violation(
                f"{here}.action",
                f"{rule.action} is not an action; use ACTION_ALLOW, ACTION_REVIEW or ACTION_BLOCK.",
            )
