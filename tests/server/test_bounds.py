"""The contract's bounds, in numbers: the largest that is taken, and one more."""

from collections.abc import Callable
from typing import Any

import pytest

from guard_core.errors import RequestInvalid
from guard_server.api import validation
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import ask

BATCH_BYTES = 2_097_152


def batch(items: int) -> moderation_pb2.BatchModerateRequest:
    return moderation_pb2.BatchModerateRequest(items=[ask("Q")] * items)


def batch_of_bytes(size: int) -> moderation_pb2.BatchModerateRequest:
    """Of two items, each larger than a request may be: only the batch's own size counts."""
    request = batch(2)
    for item in request.items:
        item.conversation[0].content = "x" * (size // 2 - 64)
    request.items[1].conversation[0].content += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


def rules(count: int) -> moderation_pb2.ModerateRequest:
    categories = [number for number in types_pb2.Category.values() if number]
    policy = types_pb2.Policy()
    for number in (categories * 2)[:count]:
        policy.category_rules.add(
            category=types_pb2.Category.Name(number),
            action=types_pb2.ACTION_ALLOW,
        )
    return ask("Q", policy=policy)


def check_batch(request: moderation_pb2.BatchModerateRequest) -> None:
    validation.batch(request, [])


def check_id(text: str) -> None:
    validation.stream_id(moderation_pb2.StreamModerateRequest(id=text, request=ask("Q")), [])


@pytest.mark.parametrize(
    ("check", "taken", "refused", "field"),
    [
        (check_batch, batch(1), batch(0), "items"),
        (check_batch, batch(256), batch(257), "items"),
        (check_batch, batch_of_bytes(BATCH_BYTES), batch_of_bytes(BATCH_BYTES + 1), "items"),
        (check_id, "x", "", "id"),
        (check_id, "é" * 64, "é" * 64 + "x", "id"),
        (
            validation.moderation_request,
            ask("Q", routing_key="é" * 64),
            ask("Q", routing_key="x" * 129),
            "routing_key",
        ),
        (
            validation.moderation_request,
            rules(9),
            rules(10),
            "policy.category_rules",
        ),
    ],
    ids=["no item", "items", "bytes", "no id", "id", "routing key", "rules"],
)
def test_the_largest_is_taken_and_one_more_is_refused(
    check: Callable[[Any], object], taken: object, refused: object, field: str
) -> None:
    check(taken)
    with pytest.raises(RequestInvalid) as caught:
        check(refused)
    [violation] = caught.value.violations
    assert violation.field == field


def test_all_rules_are_read_and_a_category_has_one() -> None:
    policy = validation.moderation_request(rules(9)).policy
    assert policy is not None
    assert len(policy.category_rules) == 9
    twice = rules(1)
    twice.policy.category_rules.append(twice.policy.category_rules[0])
    with pytest.raises(RequestInvalid) as caught:
        validation.moderation_request(twice)
    assert [v.field for v in caught.value.violations] == ["policy.category_rules[1].category"]


def test_more_is_read_than_a_batch_may_hold_to_refuse_it_by_name() -> None:
    assert validation.MAX_MESSAGE_BYTES == BATCH_BYTES + 524_288
