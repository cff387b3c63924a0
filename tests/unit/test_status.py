"""What the status says in every state of a fleet."""

import zlib

import msgspec
import pytest
from tests.kube_objects import (
    NOW,
    deployment,
    fleet,
    situation,
)
from tests.spec_cases import EVERYTHING
from tests.status_cases import CASES, OLD, READY, Case

from sampler_api.fleet import AdaptersConfig
from sampler_operator.errors import InvalidSpec
from sampler_operator.objects import Manifest
from sampler_operator.observed import ChildView, Observed
from sampler_operator.spec.status import SamplerDeploymentStatus
from sampler_operator.status import invalid_status, is_same_status, state_of, status


def seen(case: Case) -> tuple[Manifest, dict[str, Manifest]]:
    sd, found = situation(fleet(case.spec), case.pods, case.child, **case.more)
    made = status(sd, found, NOW)
    return made, {each["type"]: each for each in made["conditions"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_conditions(case: Case) -> None:
    _, conditions = seen(case)
    said = {
        kind: ("+" if found["status"] == "True" else "-") + found["reason"]
        for kind, found in conditions.items()
    }
    assert {kind: said[kind] for kind in case.says} == dict(case.says)
    for kind, part in case.messages.items():
        assert part in conditions[kind]["message"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_every_status_is_as_the_schema_has_it(case: Case) -> None:
    made, conditions = seen(case)
    SamplerDeploymentStatus.model_validate(made)
    assert list(conditions) == [
        "Accepted",
        "Ready",
        "UpToDate",
        "Progressing",
        "AdaptersReady",
        "Reconciling",
        "Stalled",
    ]
    assert {each["observedGeneration"] for each in conditions.values()} == {1}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_a_fleet_is_either_done_or_reconciling_or_stalled(case: Case) -> None:
    _, conditions = seen(case)
    holds = {kind for kind, each in conditions.items() if each["status"] == "True"}
    assert len(holds & {"UpToDate", "Reconciling", "Stalled"}) == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_a_second_pass_without_news_writes_nothing(case: Case) -> None:
    made, _ = seen(case)
    sd, found = situation(fleet(case.spec, status=made), case.pods, case.child, **case.more)
    assert is_same_status(made, status(sd, found, NOW.replace(hour=13)))


STATES = {
    "a fleet that is not there yet is on its way": "progressing",
    "a fleet that serves as a whole is up to date": "ready",
    "a fleet that is scaled to zero is up to date and not ready": "idle",
    "a broken image leaves the old replicas of a surge serving": "stalled",
}


@pytest.mark.parametrize(("sentence", "state"), STATES.items(), ids=STATES.values())
def test_the_state_for_metrics(sentence: str, state: str) -> None:
    [case] = [case for case in CASES if case.sentence == sentence]
    assert state_of(seen(case)[0]) == state


def test_what_kubectl_shows() -> None:
    config = AdaptersConfig(bases={"b": "sha256:bb", "a": "sha256:aa"})
    sd, found = situation(
        fleet({"replicas": 3, "image": "acme/sampler:9"}, generation=7),
        (READY, OLD),
        deployment(3, 2, 2),
        config=config,
    )
    made = status(sd, found, NOW)
    del made["conditions"]
    assert made == {
        "observedGeneration": 7,
        "replicas": 3,
        "readyReplicas": 2,
        "updatedReplicas": 2,
        "selector": "sampler.dev/fleet=fleet",
        "summary": "2/3",
        "adaptersSummary": "",
        "engine": "torch",
        "image": "acme/sampler:9",
        "adapters": [],
        "bases": [
            {"template": "a", "digest": "sha256:aa"},
            {"template": "b", "digest": "sha256:bb"},
        ],
    }


def test_the_image_is_the_one_that_runs_after_overrides() -> None:
    overrides = {"spec": {"containers": [{"name": "server", "image": "acme/patched:2"}]}}
    sd, found = situation(fleet({"podTemplateOverrides": overrides}))
    assert status(sd, found, NOW)["image"] == "acme/patched:2"


def test_a_spec_with_everything_has_a_status() -> None:
    sd, found = situation({**fleet(), "spec": EVERYTHING})
    SamplerDeploymentStatus.model_validate(status(sd, found, NOW))


WRONG = InvalidSpec("spec.replica: unknown field; did you mean replicas?", "spec.replica")


def test_a_spec_that_cannot_be_leaves_what_runs_and_tells_how_it_is_now() -> None:
    [case] = [case for case in CASES if case.sentence.startswith("a fleet that serves")]
    former, _ = seen(case)
    later = NOW.replace(hour=13)

    def told(ready: int, replicas: int) -> tuple[Manifest, dict[str, Manifest]]:
        child = applied(deployment(2, ready=ready), replicas)
        found = Observed(fleet(generation=2, status=former), {child.ref: child})
        made = invalid_status(found, WRONG, later)
        SamplerDeploymentStatus.model_validate(made)
        return made, {each["type"]: each for each in made["conditions"]}

    made, conditions = told(2, 2)
    kept = ("replicas", "readyReplicas", "summary", "image")
    assert {name: made[name] for name in kept} == {name: former[name] for name in kept}
    assert made["observedGeneration"] == 2
    ready = conditions["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert ready["lastTransitionTime"] == former["conditions"][1]["lastTransitionTime"]
    for kind, holds in {"Accepted": "False", "UpToDate": "False", "Stalled": "True"}.items():
        found = conditions[kind]
        assert (found["status"], found["reason"]) == (holds, "InvalidSpec")
        assert found["message"] == WRONG.message
        assert found["lastTransitionTime"] == "2026-11-26T13:00:00Z"
    assert state_of(made) == "stalled"

    made, conditions = told(0, 2)
    assert (made["readyReplicas"], made["summary"]) == (0, "0/2")
    ready = conditions["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "WaitingForReplicas")
    assert ready["message"] == "0 of 2 replicas of the former spec ready"

    made, conditions = told(0, 0)
    assert conditions["Ready"]["reason"] == "ScaledToZero"

    made = invalid_status(Observed(fleet(generation=2, status=former)), WRONG, later)
    [ready] = [each for each in made["conditions"] if each["type"] == "Ready"]
    assert (ready["status"], made["readyReplicas"]) == ("False", 0)


@pytest.mark.parametrize(
    ("strategy", "is_serving"),
    [
        ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, True),
        ({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, False),
        ({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}, False),
        ({"type": "Recreate"}, True),
    ],
)
def test_a_fleet_of_a_spec_that_cannot_be_serves_by_the_measures_of_its_deployment(
    strategy: Manifest, is_serving: bool
) -> None:
    child = applied(deployment(2, ready=1), 2, strategy)
    made = invalid_status(Observed(fleet(), {child.ref: child}), WRONG, NOW)
    [ready] = [each for each in made["conditions"] if each["type"] == "Ready"]
    assert ready["status"] == str(is_serving)


def applied(child: ChildView, replicas: int, strategy: Manifest | None = None) -> ChildView:
    """A Deployment of the fleet that wants so many replicas."""
    spec = {"replicas": replicas, "strategy": strategy or {}}
    body = zlib.compress(msgspec.json.encode({"metadata": {}, "spec": spec}))
    return msgspec.structs.replace(child, owner="5f1c", body=body)


def test_a_first_spec_that_cannot_be_is_not_ready() -> None:
    made = invalid_status(Observed(fleet()), WRONG, NOW)
    conditions = {each["type"]: each["status"] for each in made["conditions"]}
    assert conditions == {
        "Accepted": "False",
        "Ready": "False",
        "UpToDate": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }


SAME = [
    pytest.param({"replicas": 2}, {"replicas": 2}, True, id="equal ones are the same"),
    pytest.param({"replicas": 2}, {"replicas": 3}, False, id="another count is another status"),
    pytest.param({"summary": "0/2"}, {"summary": "0/2", "adapters": []}, True, id="empty is none"),
    pytest.param({}, {"adaptersSummary": ""}, True, id="an empty text is none"),
    pytest.param({}, {"readyReplicas": 0}, False, id="no replicas are something to say"),
]


@pytest.mark.parametrize(("one", "other", "is_same"), SAME)
def test_a_status_is_written_only_when_it_differs(
    one: Manifest, other: Manifest, is_same: bool
) -> None:
    assert is_same_status(one, other) == is_same
