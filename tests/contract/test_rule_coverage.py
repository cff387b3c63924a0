"""Every rule of a feature that is here has a test for every sampler, or a reason why not."""

import pytest
from tests.rules import (
    NOT_TESTED,
    PAGE,
    SHARED,
    RuleTest,
    blanks,
    landed_features,
    lines_with_rules,
    read_rules,
    read_tests,
    table,
)
from tests.samplers import SAMPLERS

RULES = read_rules()
TESTS = read_tests()
FEATURES = landed_features()


def test_the_page_has_numbered_rules_of_known_features() -> None:
    assert len(RULES) == lines_with_rules() >= 40
    numbers = [rule.number for rule in RULES]
    assert len(set(numbers)) == len(numbers)
    assert {rule.since for rule in RULES} <= FEATURES.keys()
    assert FEATURES["core"]


def test_every_rule_has_a_test_or_a_reason_for_every_sampler() -> None:
    missing = blanks(RULES, TESTS, FEATURES)
    assert not missing, "rules without a test:\n" + "\n".join(missing)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("- **S1.99** `core` Something new.\n", id="a new rule"),
        pytest.param("- **S1.99** `core` Something\n  on two lines.\n", id="a rule on two lines"),
    ],
)
def test_a_rule_that_nobody_tests_is_found_for_every_sampler(line: str) -> None:
    rules = read_rules(PAGE.read_text() + "\n" + line)
    found = blanks(rules, TESTS, FEATURES)
    assert [each.split(": ")[0] for each in found] == [f"S1.99 ({kind})" for kind in SAMPLERS]


def test_a_test_for_one_sampler_leaves_the_others_blank() -> None:
    (rule,) = read_rules("- **S1.99** `core` Something new.\n")
    test = RuleTest("test_x", (rule.number,), ("torch",), is_shared=False)
    assert not [each for each in blanks([rule], [test], FEATURES) if "(torch)" in each]
    assert len(blanks([rule], [test], FEATURES)) == len(SAMPLERS) - 1


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("- **S1.99** core Something.\n", id="a feature without its marks"),
        pytest.param("- **S1.99**: `core` Something.\n", id="a colon"),
        pytest.param("- **S1** `core` Something.\n", id="half a number"),
    ],
)
def test_a_rule_that_cannot_be_read_is_noticed(line: str) -> None:
    page = PAGE.read_text() + "\n" + line
    assert lines_with_rules(page) == len(read_rules(page)) + 1


def test_a_test_that_is_given_no_sampler_says_what_of_all_samplers_it_tests() -> None:
    shared = [test.name.rpartition("::")[2] for test in TESTS if test.is_shared]
    assert sorted(shared) == sorted(SHARED)
    assert all(reason.strip() for reason in SHARED.values())


def test_tests_name_rules_and_samplers_that_exist() -> None:
    numbers = {rule.number for rule in RULES}
    wrong = [
        f"{test.name}: {name}"
        for test in TESTS
        for name in (*test.numbers, *test.samplers)
        if name not in numbers and name not in SAMPLERS
    ]
    assert not wrong


def test_reasons_stand_only_where_no_test_does() -> None:
    cells = table(RULES, TESTS)
    assert [cell for cell in NOT_TESTED if cells.get(cell)] == []
    assert NOT_TESTED.keys() <= cells.keys()
    assert all(reason.strip() for reason in NOT_TESTED.values())
