"""Conditions: their shape, their order, and when their times move."""

from datetime import timedelta
from typing import Any

import pytest
from tests.kube_objects import NOW, fleet

from sampler_operator.objects import Manifest
from sampler_operator.spec.parse import parse
from sampler_operator.status import Condition, ConditionType, Reason
from sampler_operator.status.conditions import merged
from sampler_operator.status.counts import Counts, max_unavailable

LATER = NOW + timedelta(minutes=5)
SERVING = Condition(ConditionType.READY, True, Reason.SERVING, "2 of 2 replicas ready")
FORMER: Manifest = {"conditions": merged({}, [SERVING], 1, NOW)}


def test_a_condition_has_the_shape_of_all_of_kubernetes() -> None:
    assert FORMER["conditions"] == [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-26T12:00:00Z",
            "reason": "Serving",
            "message": "2 of 2 replicas ready",
        }
    ]


STARTING = Condition(ConditionType.READY, False, Reason.STARTING, "1 of 2 replicas ready")
FEWER = Condition(ConditionType.READY, True, Reason.SERVING, "1 of 2 replicas ready")

CRASHED = Condition(ConditionType.READY, False, Reason.ENGINE_START_FAILED, "no such dtype")
UNREADY: Manifest = {"conditions": merged({}, [STARTING], 1, NOW)}

TIMES = [
    pytest.param(FORMER, SERVING, NOW, id="a condition that stays keeps its time"),
    pytest.param(FORMER, FEWER, NOW, id="a new message moves no time"),
    pytest.param(UNREADY, CRASHED, NOW, id="a new reason moves no time"),
    pytest.param(FORMER, STARTING, LATER, id="a status that flips moves it"),
    pytest.param({}, SERVING, LATER, id="a first condition begins now"),
]


@pytest.mark.parametrize(("former", "condition", "since"), TIMES)
def test_times_of_transitions(former: Manifest, condition: Condition, since: Any) -> None:
    [made] = merged(former, [condition], 2, LATER)
    assert made["lastTransitionTime"] == since.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert made["observedGeneration"] == 2


def test_conditions_come_in_one_order_and_others_stay() -> None:
    stalled = Condition(ConditionType.STALLED, False, Reason.NO_FAULT, "")
    accepted = Condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "")
    made = merged(FORMER, [stalled, accepted], 2, LATER)
    assert [each["type"] for each in made] == ["Accepted", "Ready", "Stalled"]
    assert made[1] == FORMER["conditions"][0]


SHARES = [
    pytest.param(4, 0, 1, 1, 3, id="a number is itself"),
    pytest.param(2, 0, 5, 2, 1, id="no more can be missing than there are"),
    pytest.param(1, 0, 1, 1, 1, id="one replica serves or does not"),
    pytest.param(10, 0, "25%", 2, 8, id="a percentage is rounded down"),
    pytest.param(3, 0, "25%", 1, 2, id="where both round to nothing one may be missing"),
    pytest.param(3, "10%", "25%", 0, 3, id="a surge is rounded up, so none need be missing"),
    pytest.param(3, 1, 0, 0, 3, id="with a surge none need be missing"),
    pytest.param(4, 0, "100%", 4, 1, id="somebody has to serve"),
    pytest.param(0, 0, 1, 0, 1, id="of none, none can be missing"),
]


@pytest.mark.parametrize(("replicas", "surge", "unavailable", "missing", "least"), SHARES)
def test_how_many_may_be_missing(
    replicas: int, surge: int | str, unavailable: int | str, missing: int, least: int
) -> None:
    rollout = {"maxSurge": surge, "maxUnavailable": unavailable}
    sd = parse(fleet({"replicas": replicas, "rollout": rollout}))
    assert max_unavailable(sd) == missing
    assert Counts.of(sd, None).least == least
