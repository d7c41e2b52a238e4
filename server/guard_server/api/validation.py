"""What a request must be. What the model's template would drop is refused, and nothing is cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from guard_core.errors import RequestInvalid, Violation
from guard_core.verdict.policy import Policy
from guard_core.verdict.prompt import ASSISTANT, Message
from guard_server.api import enums as contract
from qwen3guard.v1 import moderation_pb2, types_pb2

_STRICT = Policy()
MAX_MESSAGES = 512
MAX_CONTENT_BYTES = 131_072
MAX_BATCH_ITEMS = 256
MAX_BATCH_BYTES = 2_097_152
MAX_ID_BYTES = 128
MAX_ROUTING_KEY_BYTES = 128


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request that is in order."""

    messages: tuple[Message, ...]
    policy: Policy = field(default_factory=Policy)
    with_scores: bool = False
    slot: str = ""
    routing_key: str = ""

    @property
    def response_mode(self) -> bool:
        return self.messages[-1].role == ASSISTANT


def conversation(
    request: moderation_pb2.ModerateRequest, found: Iterable[Violation] = ()
) -> Conversation:
    """Checks a request. Raises RequestInvalid with every violation, those `found` before first."""
    turns = [(turn.role, turn.content) for turn in request.conversation]
    policy = request.policy if request.HasField("policy") else None
    violations = list(found)
    unreadable = {violation.field for violation in violations}
    violations += (v for v in _conversation(turns) if v.field not in unreadable)
    if policy is not None:
        violations += _policy(policy)
    if len(request.routing_key.encode()) > MAX_ROUTING_KEY_BYTES:
        violations.append(
            Violation("routing_key", f"must be at most {MAX_ROUTING_KEY_BYTES} bytes of UTF-8.")
        )
    if violations:
        raise RequestInvalid(violations)
    return Conversation(
        tuple(Message(contract.ROLES[role], content) for role, content in turns),
        _STRICT if policy is None else _read_policy(policy),
        request.with_scores,
        request.slot,
        request.routing_key,
    )


def _read_policy(policy: types_pb2.Policy) -> Policy:
    return Policy(
        contract.CONTROVERSIAL[policy.controversial],
        {
            contract.CATEGORY_NAMES[rule.category]: contract.ACTION_OF[rule.action]
            for rule in policy.category_rules
        },
    )


def batch(request: moderation_pb2.BatchModerateRequest) -> None:
    """Checks a batch's own bounds, not its items. Raises RequestInvalid."""
    if not 1 <= len(request.items) <= MAX_BATCH_ITEMS:
        raise RequestInvalid(
            [Violation("items", f"has {len(request.items)} items; send 1 to {MAX_BATCH_ITEMS}.")]
        )
    size = request.ByteSize()
    if size > MAX_BATCH_BYTES:
        raise RequestInvalid(
            [
                Violation(
                    "items",
                    f"hold {size} bytes; at most {MAX_BATCH_BYTES}. "
                    "Send smaller batches, or a stream.",
                )
            ]
        )


def stream_id(request: moderation_pb2.StreamModerateRequest) -> None:
    """Checks the form of a stream request's id. Raises RequestInvalid."""
    if not 1 <= len(request.id.encode()) <= MAX_ID_BYTES:
        raise RequestInvalid([Violation("id", f"must be 1 to {MAX_ID_BYTES} bytes of UTF-8.")])


def _conversation(turns: Sequence[tuple[int, str]]) -> Iterable[Violation]:
    if not 1 <= len(turns) <= MAX_MESSAGES:
        yield Violation(
            "conversation", f"has {len(turns)} messages; send 1 to {MAX_MESSAGES}, oldest first."
        )
        return
    size = 0
    for index, (role, content) in enumerate(turns):
        size += len(content.encode())
        if role not in contract.ROLES:
            yield Violation(
                f"conversation[{index}].role",
                f"{role} is no role; use ROLE_SYSTEM (first only), ROLE_USER or "
                "ROLE_ASSISTANT. Text of a tool belongs into a user message.",
            )
        elif index > 0 and role == types_pb2.ROLE_SYSTEM:
            yield Violation(
                f"conversation[{index}].role", "a system message may only be the first one."
            )
        elif index == 0 and role == types_pb2.ROLE_ASSISTANT:
            yield Violation(
                "conversation[0].role",
                "an assistant message can't be the first one: send the prompt that it answers too.",
            )
        if not content:
            yield Violation(
                f"conversation[{index}].content", "is empty: there is nothing to judge."
            )
    if role == types_pb2.ROLE_SYSTEM:
        yield Violation(
            f"conversation[{index}].role",
            "the last message is the one judged, and must be a user's or an assistant's.",
        )
    if size > MAX_CONTENT_BYTES:
        yield Violation(
            "conversation",
            f"holds {size} bytes of content; at most {MAX_CONTENT_BYTES}. Nothing is cut here: "
            "leave out older messages, or judge parts of the text one by one.",
        )


def _policy(policy: types_pb2.Policy) -> Iterable[Violation]:
    if policy.controversial not in contract.CONTROVERSIAL:
        yield Violation(
            "policy.controversial",
            f"{policy.controversial} is no treatment that this server knows.",
        )
    if len(policy.category_rules) > len(contract.CATEGORIES):
        yield Violation(
            "policy.category_rules",
            f"has {len(policy.category_rules)} rules; there are {len(contract.CATEGORIES)} "
            "categories. Give each at most one.",
        )
        return
    seen = set()
    for index, rule in enumerate(policy.category_rules):
        here = f"policy.category_rules[{index}]"
        if rule.category not in contract.CATEGORY_NAMES:
            yield Violation(f"{here}.category", f"{rule.category} is no category; name one.")
        elif rule.category in seen:
            yield Violation(f"{here}.category", "has a rule already; give each category one.")
        seen.add(rule.category)
        if rule.action not in contract.ACTION_OF:
            yield Violation(
                f"{here}.action",
                f"{rule.action} is no action; use ACTION_ALLOW, ACTION_REVIEW or ACTION_BLOCK.",
            )
