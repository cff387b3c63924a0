"""What a Deployment tells of itself: refused pods, and rollouts that take too long."""

import pytest
from tests.kube_objects import deployment, fleet

from sampler_operator.spec.parse import parse
from sampler_operator.status import Gravity, Reason
from sampler_operator.status.controller import deadline_fault, is_rolled_out, refusal_fault

REFUSALS = [
    pytest.param(
        'pods "fleet-6d5f9c7b8-x2v7k" is forbidden: exceeded quota: gpus, requested:'
        " requests.nvidia.com/gpu=2, used: requests.nvidia.com/gpu=7, limited:"
        " requests.nvidia.com/gpu=8",
        Gravity.STUCK,
        "the cluster refuses pods: exceeded quota: gpus, requested: requests.nvidia.com/gpu=2,"
        " used: requests.nvidia.com/gpu=7, limited: requests.nvidia.com/gpu=8; raise the"
        " ResourceQuota or ask for less",
        id="a quota that is used up is told with its numbers",
    ),
    pytest.param(
        'pods "fleet-6d5f9c7b8-x2v7k" is forbidden: violates PodSecurity "restricted:latest":'
        ' allowPrivilegeEscalation != false (container "server" must set'
        " securityContext.allowPrivilegeEscalation=false)",
        Gravity.STUCK,
        'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        id="Pod Security names what it forbids",
    ),
    pytest.param(
        'pods "fleet-6d5f9c7b8-x2v7k" is forbidden: maximum memory usage per Container is 8Gi, but'
        " limit is 16Gi",
        Gravity.STUCK,
        "the cluster refuses pods: maximum memory usage per Container is 8Gi, but limit is 16Gi",
        id="a LimitRange tells its limit",
    ),
    pytest.param(
        'admission webhook "validate.kyverno.svc-fail" denied the request: images must come from'
        " registry.acme.dev",
        Gravity.STUCK,
        "images must come from registry.acme.dev",
        id="a policy's webhook tells its rule",
    ),
    pytest.param(
        'Internal error occurred: failed calling webhook "mutate.acme.dev": failed to call webhook:'
        ' Post "https://hooks.acme.svc:443/mutate?timeout=10s": dial tcp 10.0.0.9:443: connect:'
        " connection refused",
        Gravity.HEALING,
        "failed calling webhook",
        id="a webhook that does not answer may come back",
    ),
    pytest.param(
        'pods "fleet-6d5f9c7b8-" is forbidden: error looking up service account rl/trainer:'
        ' serviceaccount "trainer" not found',
        Gravity.STUCK,
        'serviceaccount "trainer" not found; correct spec.serviceAccountName',
        id="a missing ServiceAccount names the field",
    ),
    pytest.param(
        'pods "fleet-6d5f9c7b8-" is forbidden: no PriorityClass with name urgent was found',
        Gravity.STUCK,
        "no PriorityClass with name urgent was found; correct spec.priorityClassName",
        id="a missing PriorityClass names the field",
    ),
    pytest.param(
        'pods "fleet-6d5f9c7b8-x2v7k" is forbidden: pod rejected: RuntimeClass "nvidia" not found',
        Gravity.STUCK,
        'RuntimeClass "nvidia" not found; correct spec.runtimeClassName',
        id="a missing RuntimeClass names the field",
    ),
    pytest.param(
        'Pod "fleet-6d5f9c7b8-x2v7k" is invalid: spec.containers[0].resources.requests: Invalid'
        ' value: "2": must be less than or equal to cpu limit of 1',
        Gravity.STUCK,
        "the cluster refuses pods: spec.containers[0].resources.requests: Invalid value",
        id="a pod that is invalid names its field",
    ),
]


@pytest.mark.parametrize(("message", "gravity", "said"), REFUSALS)
def test_a_cluster_that_refuses_pods_says(message: str, gravity: Gravity, said: str) -> None:
    fault = refusal_fault(deployment(0, failure=message).deployment)
    assert fault is not None
    assert (fault.reason, fault.gravity, fault.pod) == (Reason.POD_REFUSED, gravity, "")
    assert said in fault.message
    assert "x2v7k" not in fault.message


def test_two_refusals_of_one_cause_read_the_same() -> None:
    said = 'pods "fleet-6d5f-{}" is forbidden: exceeded quota: gpus'
    first, second = (deployment(0, failure=said.format(name)).deployment for name in ("aa", "bb"))
    assert refusal_fault(first) == refusal_fault(second)


def test_a_replica_set_that_is_refused_is_a_refused_pod() -> None:
    found = deployment(0, progressing=("False", "ReplicaSetCreateError")).deployment
    fault = refusal_fault(found)
    assert fault is not None
    assert fault.reason == Reason.POD_REFUSED


def test_a_deployment_without_refusals_has_no_fault() -> None:
    assert refusal_fault(None) is None
    assert refusal_fault(deployment(2, ready=2).deployment) is None


LATE = ("False", "ProgressDeadlineExceeded")


def test_a_deadline_names_its_seconds_and_its_field() -> None:
    sd = parse(fleet({"rollout": {"progressDeadlineSeconds": 900}}))
    fault = deadline_fault(deployment(2, progressing=LATE).deployment, sd)
    assert fault is not None
    assert fault.gravity == Gravity.STUCK
    assert fault.message == (
        "the rollout has made no progress for 900 s (rollout.progressDeadlineSeconds)"
    )


def test_the_deadline_of_a_former_generation_is_void() -> None:
    late = deployment(2, progressing=LATE, generation=4, seen=3).deployment
    assert deadline_fault(late, parse(fleet())) is None
    assert deadline_fault(None, parse(fleet())) is None


@pytest.mark.parametrize(
    ("reason", "is_done"),
    [
        pytest.param("NewReplicaSetAvailable", True, id="it once was complete"),
        pytest.param("DeploymentPaused", True, id="it is paused"),
        pytest.param("ReplicaSetUpdated", False, id="pods are being replaced"),
        pytest.param("NewReplicaSetCreated", False, id="it has just begun"),
    ],
)
def test_no_rollout_is_under_way_when(reason: str, is_done: bool) -> None:
    found = deployment(2, progressing=("True", reason)).deployment
    assert found is not None
    assert is_rolled_out(found) == is_done
