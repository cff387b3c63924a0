"""Every rule of a feature that is here has a test for every sampler, or a reason why not."""

from tests.rules import NOT_TESTED, landed_features, read_rules, read_tests, table
from tests.samplers import SAMPLERS

RULES = read_rules()
TESTS = read_tests()
FEATURES = landed_features()


def test_the_page_has_numbered_rules_of_known_features() -> None:
    assert len(RULES) >= 40
    numbers = [rule.number for rule in RULES]
    assert len(set(numbers)) == len(numbers)
    assert {rule.since for rule in RULES} <= FEATURES.keys()
    assert FEATURES["core"]


def test_every_rule_has_a_test_or_a_reason_for_every_sampler() -> None:
    cells = table(RULES, TESTS)
    blanks = [
        f"{rule.number} ({kind}): {rule.text}"
        for rule in RULES
        for kind in SAMPLERS
        if FEATURES[rule.since]
        and not cells[rule.number, kind]
        and (rule.number, kind) not in NOT_TESTED
    ]
    assert not blanks, "rules without a test:\n" + "\n".join(blanks)


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
