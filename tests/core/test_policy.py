from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.policy import Action, Policy
from guard_core.verdict.taxonomy import Category, Severity

SAFE = Verdict(Severity.SAFE)
CONTROVERSIAL = Verdict(Severity.CONTROVERSIAL, (Category.PII,))
UNSAFE = Verdict(Severity.UNSAFE, (Category.VIOLENT, Category.PII))


@pytest.mark.parametrize("treatment", list(Action))
def test_severity_alone(treatment: Action) -> None:
    policy = Policy(controversial=treatment)
    assert policy.action(SAFE) is Action.ALLOW
    assert policy.action(CONTROVERSIAL) is treatment
    assert policy.action(UNSAFE) is Action.BLOCK


def test_the_strictest_of_several_categories_counts() -> None:
    assert Policy(category_rules={Category.PII: Action.ALLOW}).action(UNSAFE) is Action.BLOCK
    both = {Category.PII: Action.ALLOW, Category.VIOLENT: Action.REVIEW}
    assert Policy(category_rules=both).action(UNSAFE) is Action.REVIEW


def test_a_rule_replaces_the_severitys_action() -> None:
    rules = {Category.PII: Action.BLOCK}
    assert Policy(Action.REVIEW, rules).action(CONTROVERSIAL) is Action.BLOCK
    assert Policy(Action.ALLOW, rules).action(CONTROVERSIAL) is Action.ALLOW
    assert Policy(category_rules={Category.VIOLENT: Action.ALLOW}).action(SAFE) is Action.ALLOW


def test_unsafe_without_a_category_is_blocked() -> None:
    rules = {Category.PII: Action.ALLOW}
    assert Policy(category_rules=rules).action(Verdict(Severity.UNSAFE)) is Action.BLOCK


POLICIES = st.builds(
    Policy,
    st.sampled_from(Action),
    st.dictionaries(st.sampled_from(Category), st.sampled_from(Action), max_size=3),
)
VERDICTS = st.builds(
    lambda severity, categories: Verdict(severity, tuple(sorted(categories))),
    st.sampled_from(Severity),
    st.sets(st.sampled_from(Category), max_size=3),
)


@given(POLICIES, POLICIES, VERDICTS)
def test_no_policy_loosens_a_floor(policy: Policy, floor: Policy, verdict: Verdict) -> None:
    named = replace(floor, name="floor")
    floored = replace(policy, floor=named)
    assert floored.action(verdict) == max(policy.action(verdict), floor.action(verdict))
    raised = floor.action(verdict) > policy.action(verdict)
    assert floored.floor_of(verdict) == ("floor" if raised else "")
    if not floored.by_category:  # then the severity alone decides
        assert floored.action(verdict) == floored.action(Verdict(verdict.severity))
