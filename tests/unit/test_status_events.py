"""Which changes of a status become events, and which do not."""

from collections.abc import Mapping, Sequence

import pytest

from sampler_operator.objects import Manifest
from sampler_operator.status import ConditionType, Reason, events

QUIET = {
    "Accepted": "+Accepted",
    "Ready": "+Serving",
    "UpToDate": "+UpToDate",
    "Progressing": "-Complete",
    "AdaptersReady": "+NoneDeclared",
    "Reconciling": "-Complete",
    "Stalled": "-NoFault",
}
BROKEN = {
    "Ready": "-ImagePull",
    "UpToDate": "-ImagePull",
    "Progressing": "+RollingOut",
    "Reconciling": "-ImagePull",
    "Stalled": "+ImagePull",
}


def made(words: Mapping[str, str], message: str = "told") -> Manifest:
    """A status with conditions such as ``+Serving``."""
    return {
        "conditions": [
            {
                "type": str(ConditionType(kind)),
                "status": "True" if word[0] == "+" else "False",
                "reason": str(Reason(word[1:])),
                "message": message,
            }
            for kind, word in words.items()
        ]
    }


CASES = [
    pytest.param(QUIET, QUIET, (), [], id="nothing new is no news"),
    pytest.param(
        {},
        {**QUIET, "Ready": "-Starting", "Progressing": "+RollingOut"},
        ["create Deployment fleet: it does not exist", "create Service fleet: it does not exist"],
        ["Normal Applied"],
        id="a new fleet tells what was made for it",
    ),
    pytest.param(
        {},
        {**QUIET, **BROKEN},
        (),
        ["Warning ImagePull"],
        id="a fault is told once, however many conditions name it",
    ),
    pytest.param(
        QUIET,
        {**QUIET, "Ready": "-EngineStartFailed"},
        (),
        ["Warning EngineStartFailed"],
        id="a fleet that is lost warns",
    ),
    pytest.param(
        QUIET,
        {**QUIET, "Ready": "-Starting"},
        (),
        ["Warning Starting"],
        id="a fleet that serves no more warns, whatever the cause",
    ),
    pytest.param(
        {**QUIET, **BROKEN},
        QUIET,
        (),
        ["Normal Serving", "Normal Complete"],
        id="a fleet that is back is told",
    ),
    pytest.param(
        QUIET,
        {**QUIET, "Ready": "-ScaledToZero", "Progressing": "+Scaling"},
        ["apply Deployment fleet: it differs from what the spec says"],
        ["Normal Applied", "Normal ScaledToZero", "Normal Scaling"],
        id="a fleet that is sent home is no loss",
    ),
    pytest.param(
        {**QUIET, "Ready": "-ImagePull"},
        {**QUIET, "Ready": "-OutOfMemory"},
        (),
        ["Warning OutOfMemory"],
        id="another fault is news",
    ),
    pytest.param(
        QUIET,
        {
            **QUIET,
            "Progressing": "-ProgressDeadlineExceeded",
            "Stalled": "+ProgressDeadlineExceeded",
        },
        (),
        ["Warning ProgressDeadlineExceeded"],
        id="a deadline that has passed warns once",
    ),
    pytest.param(
        {**QUIET, "AdaptersReady": "-AdaptersLoading"},
        {**QUIET, "AdaptersReady": "-AdapterFailed"},
        (),
        ["Warning AdapterFailed"],
        id="a broken adapter warns",
    ),
    pytest.param(
        QUIET,
        {**QUIET, "Accepted": "-Forbidden", "Stalled": "+Forbidden"},
        ["apply Service fleet: it differs from what the spec says"],
        ["Normal Applied", "Warning Forbidden"],
        id="what was written beside what was refused is told",
    ),
    pytest.param(
        QUIET,
        {**QUIET, "UpToDate": "-ClusterUnavailable", "Reconciling": "+ClusterUnavailable"},
        (),
        [],
        id="an API server that does not answer is no news of the fleet",
    ),
]


@pytest.mark.parametrize(("old", "new", "details", "told"), CASES)
def test_events(
    old: Mapping[str, str], new: Mapping[str, str], details: Sequence[str], told: list[str]
) -> None:
    found = events(made(old), made(new), details)
    assert [f"{event.kind} {event.reason}" for event in found] == told


def test_counts_that_change_are_no_news() -> None:
    assert events(made(QUIET, "2 of 3 replicas"), made(QUIET, "3 of 3 replicas"), ()) == ()


def test_messages_are_those_of_the_conditions_and_fit_into_events() -> None:
    [applied, fault] = events({}, made({**QUIET, **BROKEN}, "x" * 5000), ["create a", "delete b"])
    assert applied.message == "create a; delete b"
    assert fault.message == "x" * 1024


def test_a_reason_of_a_later_operator_is_told_by_an_earlier_one() -> None:
    later = made(QUIET)
    later["conditions"][1]["reason"] = "SomethingNew"
    assert [event.reason for event in events(later, made(QUIET), ())] == ["Serving"]
