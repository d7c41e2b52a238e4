import pytest

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.policy import Action, Policy

SAFE = Verdict("Safe")
CONTROVERSIAL = Verdict("Controversial", ("PII",))
UNSAFE = Verdict("Unsafe", ("Violent", "PII"))


@pytest.mark.parametrize("treatment", list(Action))
def test_severity_alone(treatment: Action) -> None:
    policy = Policy(controversial=treatment)
    assert policy.action(SAFE) is Action.ALLOW
    assert policy.action(CONTROVERSIAL) is treatment
    assert policy.action(UNSAFE) is Action.BLOCK


def test_the_strictest_of_several_categories_counts() -> None:
    assert Policy(category_rules={"PII": Action.ALLOW}).action(UNSAFE) is Action.BLOCK
    both = {"PII": Action.ALLOW, "Violent": Action.REVIEW}
    assert Policy(category_rules=both).action(UNSAFE) is Action.REVIEW


def test_a_rule_replaces_the_severitys_action() -> None:
    rules = {"PII": Action.BLOCK}
    assert Policy(Action.REVIEW, rules).action(CONTROVERSIAL) is Action.BLOCK
    assert Policy(Action.ALLOW, rules).action(CONTROVERSIAL) is Action.ALLOW
    assert Policy(category_rules={"Violent": Action.ALLOW}).action(SAFE) is Action.ALLOW


def test_unsafe_without_a_category_is_blocked() -> None:
    rules = {"PII": Action.ALLOW}
    assert Policy(category_rules=rules).action(Verdict("Unsafe")) is Action.BLOCK
