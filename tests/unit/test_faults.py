"""What a person is told of pods that are long in the making, have failed or are silent, and of
what replicas say themselves."""

from typing import Any

import pytest
from tests.kube_objects import (
    ended,
    pod,
    pod_condition,
    running,
    waiting,
)
from tests.pod_faults import CRASH, NAME, fault_of

from sampler_api.fleet import AdaptersConfig, ReplicaStatus
from sampler_api.frames import ModelCard
from sampler_operator.observed import PodView
from sampler_operator.ports import Event
from sampler_operator.reports import Report
from sampler_operator.status import Gravity, Reason

MOUNTS = [
    pytest.param(
        [
            Event("Warning", "Unhealthy", "Readiness probe failed"),
            Event(
                "Warning",
                "FailedMount",
                'MountVolume.SetUp failed for volume "tokens" : secret "jobs" not found',
            ),
        ],
        60.0,
        (Reason.MOUNT_FAILED, Gravity.STUCK),
        "Secret jobs does not exist in namespace rl; create it (MountVolume.SetUp failed",
        id="a mounted Secret that is missing is named",
    ),
    pytest.param(
        [
            Event(
                "Warning",
                "FailedAttachVolume",
                'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) fleet-b-1',
            )
        ],
        60.0,
        (Reason.MOUNT_FAILED, Gravity.HEALING),
        "already used by pod(s) fleet-b-1; replicas on several nodes need a ReadWriteMany claim",
        id="a claim of one node names the access mode",
    ),
    pytest.param(
        [
            Event(
                "Warning",
                "FailedCreatePodSandBox",
                "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup"
                " network for sandbox",
            )
        ],
        60.0,
        (Reason.CONTAINER_FAILED, Gravity.HEALING),
        "failed to setup network",
        id="a sandbox that cannot be made is told",
    ),
    pytest.param(
        [Event("Warning", "FailedMount", 'MountVolume.SetUp failed for volume "x" : timed out')],
        5.0,
        (Reason.PENDING, Gravity.WAITING),
        "being created",
        id="a mount that fails in the first seconds is not told yet",
    ),
]


@pytest.mark.parametrize(("warnings", "age", "verdict", "said"), MOUNTS)
def test_a_pod_that_is_long_in_the_making_says(
    warnings: list[Event], age: float, verdict: tuple[Reason, Gravity], said: str
) -> None:
    found = pod(server=waiting("ContainerCreating"), age=age)
    fault = fault_of(found, warnings={NAME: warnings})
    assert fault is not None
    assert (fault.reason, fault.gravity) == verdict
    assert said in fault.message


FAILED = [
    pytest.param(
        {
            "reason": "Evicted",
            "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available:"
            " 52Mi. ",
        },
        (Reason.EVICTED, Gravity.HEALING),
        "was evicted: The node was low on resource: memory. Threshold quantity: 100Mi",
        id="an eviction tells what the node was short of",
    ),
    pytest.param(
        {
            "reason": "Evicted",
            "message": 'Usage of EmptyDir volume "cache" exceeds the limit "20Gi". ',
        },
        (Reason.EVICTED, Gravity.HEALING),
        'was evicted: Usage of EmptyDir volume "cache" exceeds the limit "20Gi".',
        id="an eviction for a full volume names the volume",
    ),
    pytest.param(
        {
            "reason": "Terminated",
            "message": "Pod was terminated in response to imminent node shutdown.",
        },
        (Reason.NODE_LOST, Gravity.HEALING),
        "imminent node shutdown",
        id="a node that shuts down takes its pods along",
    ),
    pytest.param(
        {
            "reason": "UnexpectedAdmissionError",
            "message": "Pod was rejected: Allocate failed due to requested number of devices"
            " unavailable for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected",
        },
        (Reason.POD_REJECTED, Gravity.HEALING),
        "node node-1 rejected it (UnexpectedAdmissionError): Allocate failed due to requested"
        " number of devices unavailable",
        id="a kubelet that has no device left rejects the pod",
    ),
]


@pytest.mark.parametrize(("more", "verdict", "said"), FAILED)
def test_a_failed_pod_says(
    more: dict[str, Any], verdict: tuple[Reason, Gravity], said: str
) -> None:
    fault = fault_of(pod(phase="Failed", **more))
    assert fault is not None
    assert (fault.reason, fault.gravity) == verdict
    assert said in fault.message


LOST = [
    pytest.param(pod_condition("Ready", "False"), Reason.NODE_LOST, id="a silent node is found"),
    pytest.param(
        pod_condition(
            "Ready",
            "False",
            "ReadinessGatesNotReady",
            'the status of pod readiness gate "acme/lb" is not "True", but False',
        ),
        Reason.NOT_READY,
        id="a readiness gate is no lost node",
    ),
]


@pytest.mark.parametrize(("condition", "reason"), LOST)
def test_ready_containers_in_a_pod_that_is_not(condition: dict[str, Any], reason: Reason) -> None:
    conditions = [condition, pod_condition("ContainersReady", "True")]
    fault = fault_of(pod(server=running(started=True, ready=True), conditions=conditions))
    assert fault is not None
    assert fault.reason == reason
    assert ("node-1" in fault.message) or ("acme/lb" in fault.message)


SILENT = [
    pytest.param(pod(is_ready=True), id="it is ready"),
    pytest.param(pod(server=CRASH, is_leaving=True), id="it leaves"),
    pytest.param(pod(phase="Succeeded"), id="it has ended in good order"),
    pytest.param(pod(phase="Failed", reason="Evicted", age=7200), id="it was evicted long ago"),
]


@pytest.mark.parametrize("found", SILENT)
def test_a_pod_has_no_fault_when(found: PodView) -> None:
    assert fault_of(found) is None


def card(base: str) -> ModelCard:
    return ModelCard("owner/model", "torch", base, None, 128, 64, (2,), ("processed",), 20)


def account(found: PodView, **more: Any) -> dict[str, Report]:
    status = ReplicaStatus(ready=False, incarnation="i", **more)
    return {found.name: Report(found.life, is_ready=False, status=status)}


OWN = [
    pytest.param(
        True,
        {"reason": "required adapters are not held: math@sha256:aa no such directory"},
        (Reason.NOT_READY, Gravity.HEALING),
        "required adapters are not held: math@sha256:aa no such directory",
        id="a replica tells itself why it is not ready",
    ),
    pytest.param(
        False,
        {"reason": "the engine is loading"},
        (Reason.STARTING, Gravity.WAITING),
        "the engine is loading",
        id="a replica that starts tells what it does",
    ),
    pytest.param(
        True,
        {"card": "sha256:bb", "reason": "base sha256:bb differs from sha256:aa of this template"},
        (Reason.MODEL_MISMATCH, Gravity.STUCK),
        "base sha256:bb differs from sha256:aa of this template; set model.digest, or fix"
        " model.revision to one commit",
        id="another base than the template's is a mismatch",
    ),
    pytest.param(
        True,
        {"card": "sha256:aa", "reason": "draining"},
        (Reason.NOT_READY, Gravity.HEALING),
        "draining",
        id="the template's own base is none",
    ),
]


@pytest.mark.parametrize(("started", "says", "verdict", "said"), OWN)
def test_a_replica_speaks_for_itself(
    started: bool, says: dict[str, Any], verdict: tuple[Reason, Gravity], said: str
) -> None:
    found = pod(server=running(started=started))
    base = says.get("card")
    reports = account(found, **{**says, "card": card(base) if base else None})
    config = AdaptersConfig(bases={"a": "sha256:aa"})
    fault = fault_of(found, config=config, reports=reports)
    assert fault is not None
    assert (fault.reason, fault.gravity, fault.message) == (*verdict, said)


def test_what_a_replica_said_in_a_former_life_is_void() -> None:
    found = pod(server=running(started=True))
    report = Report("former", is_ready=False, status=ReplicaStatus(False, "i", reason="old"))
    fault = fault_of(found, reports={NAME: report})
    assert fault is not None
    assert fault.message == "its readiness probe has not passed"


def test_a_replica_that_does_not_answer_is_told() -> None:
    found = pod(server=running(started=True))
    report = Report(found.life, is_ready=False, error="connection refused")
    fault = fault_of(found, reports={NAME: report})
    assert fault is not None
    assert fault.message == "does not answer: connection refused"


def test_a_long_message_is_cut_to_one_line() -> None:
    fault = fault_of(pod(server=ended(1, message="x" * 5000)))
    assert fault is not None
    assert len(fault.message) == 800
    assert fault.message.endswith("…")
