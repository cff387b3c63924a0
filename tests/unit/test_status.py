"""What the status says in every state of a fleet."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.kube_objects import (
    NOW,
    deployment,
    ended,
    fleet,
    pod,
    running,
    situation,
    termination,
    waiting,
)
from tests.spec_cases import EVERYTHING

from sampler_api.fleet import AdaptersConfig
from sampler_operator.errors import Denied, InvalidSpec, Missing, Refused, Unavailable
from sampler_operator.objects import Manifest
from sampler_operator.observed import ChildView, Observed, PodView
from sampler_operator.spec.status import SamplerDeploymentStatus
from sampler_operator.status import invalid_status, is_same_status, state_of, status

READY = pod("fleet-a-1", is_ready=True)
READY_2 = pod("fleet-a-2", is_ready=True)
OLD = pod("fleet-b-1", template="b", is_ready=True, age=9000)
OLD_2 = pod("fleet-b-2", template="b", is_ready=True, age=9000)
LOADING = pod("fleet-a-1", server=running())
NO_IMAGE = pod("fleet-a-1", server=waiting("ErrImageNeverPull", 'Container image "x" is not'))
OLD_NO_IMAGE = pod(
    "fleet-b-3", template="b", age=300, server=waiting("ErrImageNeverPull", 'image "x"')
)
CRASHED = pod("fleet-a-2", server=ended(1, message="no such dtype"))
LOOPING = pod(
    "fleet-a-2", server=waiting("CrashLoopBackOff", restarts=4, last=termination(1, "Error"))
)
DONE = ("True", "NewReplicaSetAvailable")
PAUSED = ("Unknown", "DeploymentPaused")
LATE = ("False", "ProgressDeadlineExceeded")
SURGE = {"rollout": {"maxSurge": 1, "maxUnavailable": 0}}
QUOTA = 'pods "fleet-1" is forbidden: exceeded quota: gpus'
BAD_TEMPLATE = Refused(
    'Deployment fleet: Deployment.apps "fleet" is invalid:'
    " spec.template.spec.containers[0].image: Required value",
    "422",
)
RBAC = Denied(
    'networkpolicies.networking.k8s.io "fleet" is forbidden: User "system:serviceaccount:ops:op"'
    ' cannot patch resource "networkpolicies" in API group "networking.k8s.io" in the namespace'
    ' "rl"'
)


@dataclass(frozen=True)
class Case:
    """A state of a fleet, and what conditions say of it: ``+Reason`` or ``-Reason``."""

    sentence: str
    spec: Mapping[str, Any]
    child: ChildView | None
    pods: tuple[PodView, ...]
    says: Mapping[str, str]
    messages: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


TWO = {"replicas": 2}
CASES = [
    Case(
        "a fleet that is not there yet is on its way",
        TWO,
        None,
        (),
        {
            "Accepted": "+Accepted",
            "Ready": "-Pending",
            "UpToDate": "-RollingOut",
            "Progressing": "+RollingOut",
            "Reconciling": "+RollingOut",
            "Stalled": "-NoFault",
        },
        {"Ready": "0 of 2 replicas ready; the Deployment does not exist yet"},
    ),
    Case(
        "a fleet that serves as a whole is up to date",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "+Accepted",
            "Ready": "+Serving",
            "UpToDate": "+UpToDate",
            "Progressing": "-Complete",
            "AdaptersReady": "+NoneDeclared",
            "Reconciling": "-Complete",
            "Stalled": "-NoFault",
        },
        {"UpToDate": "2 of 2 replicas are of this generation and ready"},
    ),
    Case(
        "a new fleet waits for its engines",
        TWO,
        deployment(2, ready=0),
        (LOADING, pod("fleet-a-2", server=running())),
        {"Ready": "-Starting", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
        {
            "Ready": "0 of 2 replicas ready; replica fleet-a-1: its engine is starting (1 more"
            " alike)"
        },
    ),
    Case(
        "a fleet serves while a rollout without surge takes one replica",
        TWO,
        deployment(2, 1, 1),
        (LOADING, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Progressing": "+RollingOut"},
        {
            "Progressing": "1 of 2 replicas are of this generation, 1 of former ones are left, 1"
            " ready"
        },
    ),
    Case(
        "a fleet is never unready while a surge still serves",
        {**TWO, **SURGE},
        deployment(3, 1, 2),
        (LOADING, OLD, OLD_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Reconciling": "+RollingOut"},
    ),
    Case(
        "a surge that is not gone yet is not up to date",
        {**TWO, **SURGE},
        deployment(3, 2, 3),
        (READY, READY_2, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
        {"Ready": "3 replicas ready, 2 wanted"},
    ),
    Case(
        "a broken image leaves the old replicas of a surge serving",
        {**TWO, **SURGE},
        deployment(3, 1, 2),
        (NO_IMAGE, OLD, OLD_2),
        {
            "Ready": "+Serving",
            "UpToDate": "-ImageNeverPull",
            "Progressing": "+RollingOut",
            "Reconciling": "-ImageNeverPull",
            "Stalled": "+ImageNeverPull",
        },
    ),
    Case(
        "one replica that is replaced in place does not serve meanwhile",
        {"replicas": 1},
        deployment(1, 1, 0),
        (LOADING,),
        {"Ready": "-Starting", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "one replica serves until its surge does",
        {"replicas": 1, **SURGE},
        deployment(2, 1, 1),
        (LOADING, OLD),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
    ),
    Case(
        "a rollout that recreates waits for those that leave",
        {**TWO, "rollout": {"strategy": "Recreate"}},
        deployment(0, 0, 0),
        (pod("fleet-b-1", template="b", is_ready=True, is_leaving=True),),
        {"Ready": "-Pending", "Progressing": "+RollingOut"},
        {
            "Ready": "0 of 2 replicas ready; waits for 1 of its pods that are leaving",
            "UpToDate": "0 of 2 replicas are of this generation, 0 ready; "
            "waits for 1 of its pods that are leaving",
        },
    ),
    Case(
        "counts of a former generation prove nothing",
        TWO,
        deployment(2, ready=2, generation=5, seen=4, progressing=DONE),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut", "Progressing": "+RollingOut"},
        {"UpToDate": "the last change has not been taken up yet"},
    ),
    Case(
        "a fault of a former generation stalls nobody",
        TWO,
        deployment(2, 0, 1, generation=5, seen=4),
        (OLD_NO_IMAGE, OLD),
        {"UpToDate": "-RollingOut", "Reconciling": "+RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a fault of an old replica stalls no rollout",
        TWO,
        deployment(2, 1, 0),
        (LOADING, OLD_NO_IMAGE),
        {"Ready": "-ImageNeverPull", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "replicas that are ready but not yet available are not up to date",
        {**TWO, "minReadySeconds": 60},
        deployment(2, 2, 2, 1),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-RollingOut"},
        {"UpToDate": "2 of 2 replicas are of this generation, 2 ready, 1 available"},
    ),
    Case(
        "more replicas are a matter of scaling",
        {"replicas": 4},
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Ready": "-Pending", "Progressing": "+Scaling", "UpToDate": "-Scaling"},
    ),
    Case(
        "a replica that starts again is waited for",
        {"replicas": 2},
        deployment(2, ready=1, progressing=DONE),
        (LOADING, READY_2),
        {"Ready": "+Serving", "Progressing": "+WaitingForReplicas"},
    ),
    Case(
        "a fleet that is scaled to zero is up to date and not ready",
        {"replicas": 0},
        deployment(0, progressing=DONE),
        (),
        {
            "Ready": "-ScaledToZero",
            "UpToDate": "+UpToDate",
            "Progressing": "-Complete",
            "Stalled": "-NoFault",
        },
    ),
    Case(
        "a fleet on its way to zero is scaling",
        {"replicas": 0},
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Ready": "-ScaledToZero", "UpToDate": "-Scaling", "Progressing": "+Scaling"},
    ),
    Case(
        "a paused change waits and the fleet serves",
        {**TWO, "paused": True},
        deployment(2, 0, 2, progressing=PAUSED),
        (OLD, OLD_2),
        {
            "Ready": "+Serving",
            "UpToDate": "-Paused",
            "Progressing": "-Paused",
            "Reconciling": "+Paused",
            "Stalled": "-NoFault",
        },
    ),
    Case(
        "a paused fleet without changes is complete",
        {**TWO, "paused": True},
        deployment(2, ready=2, progressing=PAUSED),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Progressing": "-Complete"},
    ),
    Case(
        "a paused fleet scales all the same",
        {"replicas": 3, "paused": True},
        deployment(2, ready=2, progressing=PAUSED),
        (READY, READY_2),
        {"Ready": "+Serving", "UpToDate": "-Scaling", "Progressing": "+Scaling"},
    ),
    Case(
        "a fleet that is made in pause says why nothing starts",
        {**TWO, "paused": True},
        deployment(0, progressing=PAUSED),
        (),
        {"Ready": "-Paused", "Progressing": "-Paused"},
    ),
    Case(
        "a rollout past its deadline is stalled",
        TWO,
        deployment(2, 1, 1, progressing=LATE),
        (LOADING, OLD),
        {
            "Ready": "+Serving",
            "UpToDate": "-ProgressDeadlineExceeded",
            "Progressing": "-ProgressDeadlineExceeded",
            "Reconciling": "-ProgressDeadlineExceeded",
            "Stalled": "+ProgressDeadlineExceeded",
        },
        {"Stalled": "; replica fleet-a-1: its engine is starting"},
    ),
    Case(
        "a deadline is forgotten once the fleet is complete",
        TWO,
        deployment(2, ready=2, progressing=LATE),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Progressing": "-Complete", "Stalled": "-NoFault"},
    ),
    Case(
        "a refused pod is told before anything else",
        TWO,
        deployment(1, ready=0, failure=QUOTA),
        (LOADING,),
        {"Ready": "-PodRefused", "UpToDate": "-PodRefused", "Stalled": "+PodRefused"},
        {"Ready": "0 of 2 replicas ready; the cluster refuses pods: exceeded quota: gpus"},
    ),
    Case(
        "of two faults the one that a person must mend is told",
        TWO,
        deployment(2, ready=0),
        (NO_IMAGE, CRASHED),
        {"Ready": "-ImageNeverPull", "Stalled": "+ImageNeverPull"},
        {"Ready": "0 of 2 replicas ready; replica fleet-a-1: image x is not on the node"},
    ),
    Case(
        "what a person must mend is told before what may heal earlier in the life of a pod",
        TWO,
        deployment(2, ready=0),
        (pod("fleet-a-1", server=waiting("ImagePullBackOff", "i/o timeout")), LOOPING),
        {"Ready": "-EngineStartFailed", "Stalled": "+EngineStartFailed"},
    ),
    Case(
        "of two faults alike the one earlier in the life of a pod is told",
        TWO,
        deployment(2, ready=0),
        (
            pod("fleet-a-1", server=ended(1, message="no such dtype")),
            pod("fleet-a-2", server=waiting("ImagePullBackOff", "i/o timeout")),
        ),
        {"Ready": "-ImagePull", "Stalled": "-NoFault"},
    ),
    Case(
        "an old replica that was made anew during a rollout is still an old one",
        {"replicas": 3},
        deployment(3, 1, 1),
        (
            pod("fleet-a-1", server=running(), age=60),
            OLD,
            pod("fleet-b-3", template="b", age=9, server=waiting("ErrImageNeverPull", 'image "x"')),
        ),
        {"UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a refusal of a former generation stalls nobody",
        TWO,
        deployment(1, ready=0, generation=5, seen=4, failure=QUOTA),
        (LOADING,),
        {"Ready": "-PodRefused", "UpToDate": "-RollingOut", "Stalled": "-NoFault"},
    ),
    Case(
        "a refusal that has not been taken back stalls no complete fleet",
        TWO,
        deployment(2, ready=2, progressing=DONE, failure=QUOTA),
        (READY, READY_2),
        {"UpToDate": "+UpToDate", "Stalled": "-NoFault"},
    ),
    Case(
        "of a fault and a start the fault is told",
        {"replicas": 3},
        deployment(3, ready=0),
        (LOADING, CRASHED, pod("fleet-a-3", server=waiting("ContainerCreating"))),
        {"Ready": "-EngineStartFailed", "UpToDate": "-EngineStartFailed", "Stalled": "-NoFault"},
        {"Ready": "0 of 3 replicas ready; replica fleet-a-2: no such dtype"},
    ),
    Case(
        "an eviction of long ago does not hide a start",
        {"replicas": 1},
        deployment(1, ready=0),
        (
            LOADING,
            pod("fleet-a-0", phase="Failed", reason="Evicted", message="low on memory", age=9000),
        ),
        {"Ready": "-Starting"},
    ),
    Case(
        "a refused pod template is not accepted",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "-InvalidPodTemplate",
            "Ready": "+Serving",
            "UpToDate": "-InvalidPodTemplate",
            "Reconciling": "-InvalidPodTemplate",
            "Stalled": "+InvalidPodTemplate",
        },
        {"Accepted": "containers[0].image: Required value"},
        {"failures": (BAD_TEMPLATE,)},
    ),
    Case(
        "a right that the operator lacks is named",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-Forbidden", "Ready": "+Serving", "Stalled": "+Forbidden"},
        {"Accepted": 'cannot patch resource "networkpolicies"'},
        {"failures": (RBAC,)},
    ),
    Case(
        "a kind that the cluster lacks is named",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-MissingKind", "UpToDate": "-MissingKind"},
        {"Accepted": "the cluster has no PodMonitor"},
        {"failures": (Missing("PodMonitor fleet: the cluster has no PodMonitor: not found"),)},
    ),
    Case(
        "an object of somebody else under the fleet's name is left alone",
        TWO,
        None,
        (),
        {"Accepted": "-NameTaken", "Ready": "-NameTaken", "Stalled": "+NameTaken"},
        {"Ready": "0 of 2 replicas ready; Deployment fleet exists already"},
        {"failures": (Refused("Deployment fleet exists already", "metadata.name"),)},
    ),
    Case(
        "another child that is refused is no pod template",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {"Accepted": "-ChildRefused"},
        {"Accepted": "spec.ingress[0]"},
        {"failures": (Refused("NetworkPolicy fleet: spec.ingress[0]: Invalid value"),)},
    ),
    Case(
        "a quota on Deployments refuses no pod template",
        TWO,
        None,
        (),
        {"Accepted": "-ChildRefused", "Ready": "-ChildRefused", "Stalled": "+ChildRefused"},
        {"Accepted": "exceeded quota"},
        {"failures": (Refused("Deployment fleet: exceeded quota: deployments", "403"),)},
    ),
    Case(
        "a webhook that refuses the Deployment is no judge of its pod template",
        TWO,
        None,
        (),
        {"Accepted": "-ChildRefused"},
        {"Accepted": "spec.template needs an owner"},
        {"failures": (Refused("Deployment fleet: spec.template needs an owner", "403"),)},
    ),
    Case(
        "a pod template that is not even read is invalid",
        TWO,
        None,
        (),
        {"Accepted": "-InvalidPodTemplate"},
        {},
        {"failures": (Refused('Deployment fleet: unknown field "spec.template.x"', "400"),)},
    ),
    Case(
        "of several refusals the pod template's is told",
        TWO,
        None,
        (),
        {"Accepted": "-InvalidPodTemplate"},
        {"Accepted": "(and 1 more)"},
        {"failures": (RBAC, BAD_TEMPLATE)},
    ),
    Case(
        "an API server that does not answer refuses nothing and leaves the fleet behind its spec",
        TWO,
        deployment(2, ready=2, progressing=DONE),
        (READY, READY_2),
        {
            "Accepted": "+Accepted",
            "UpToDate": "-ClusterUnavailable",
            "Reconciling": "+ClusterUnavailable",
            "Stalled": "-NoFault",
        },
        {},
        {"failures": (Unavailable("PATCH /apis/apps/v1: connection refused"),)},
    ),
]


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
