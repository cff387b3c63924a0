"""What is told when nothing happens for long; and how often a status is written."""

import itertools
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.apiserver_pods import (
    fail_pod,
    make_pod_ready,
    make_pod_wait,
    pod_path,
    remove_pod,
)
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until
from tests.shown_status import check_told, scheduled_pod

QUIET_SECONDS: Final = 3.0


@pytest.fixture(scope="module", autouse=True)
def creating(api_server: ApiServer, operator: OperatorProcess) -> Iterator[LiveFleet]:
    """A fleet whose container is being created since this module began, which is long."""
    assert operator.is_running
    client = api_server.client
    namespace = make_namespace(client, "creating")
    fleet = LiveFleet(api_server, namespace)
    fleet.create({"auth": {"tokenSecretRef": {"name": "tokens"}}})
    pod = scheduled_pod(fleet)
    make_pod_wait(client, pod, "ContainerCreating")
    yield fleet
    end_namespace(client, namespace)


def test_a_rollout_without_progress_is_stalled_and_says_why(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 2, "rollout": {"progressDeadlineSeconds": 2}})
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    found: list[Object] = []

    def has_new_pod() -> bool:
        for pod in fleet.pods():
            if "deletionTimestamp" in pod["metadata"]:
                remove_pod(fleet.client, pod)
            elif pod["spec"]["containers"][0]["image"].endswith(":2") and "nodeName" in pod["spec"]:
                found.append(pod)
        return bool(found)

    fleet.wait(has_new_pod, "the new pod has a node")
    fail_pod(fleet.client, found[0], message="sampler serve: no such option", restarts=1)
    said = fleet.wait_for("Stalled", "True", "ProgressDeadlineExceeded")
    assert said.startswith("the rollout has made no progress for 2 s")
    progressing = fleet.condition("Progressing")
    assert progressing["status"] == "False"
    assert progressing["message"].endswith("sampler serve: no such option")
    assert fleet.condition("Ready")["status"] == "True"
    # The next spec is a new attempt.
    fleet.change({"image": "registry.example/sim:3"})
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_what_holds_a_container_up_for_long_is_told(
    creating: LiveFleet, operator: OperatorProcess
) -> None:
    pod = scheduled_pod(creating)
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    attach = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other-1'
    warn(creating, pod, "FailedAttachVolume", attach, created)
    creating.wait(lambda: creating.condition("Ready")["reason"] == "MountFailed", "it is told", 45)
    check_told(
        creating,
        "MountFailed",
        f"0 of 1 replicas ready; replica POD: {re.escape(attach)}; replicas on several nodes need a"
        " ReadWriteMany claim",
    )
    assert creating.condition("Stalled")["status"] == "False"
    message = 'MountVolume.SetUp failed for volume "tokens" : secret "tokens" not found'
    warn(creating, pod, "FailedMount", message, created + timedelta(seconds=1))
    creating.wait(
        lambda: "Secret tokens" in creating.condition("Ready")["message"], "news is told", 45
    )
    check_told(
        creating,
        "MountFailed",
        "0 of 1 replicas ready; replica POD: Secret tokens does not exist in namespace creating;"
        rf" create it \({re.escape(message)}\)",
    )
    assert creating.condition("Stalled")["status"] == "True"
    make_pod_ready(creating.client, pod)
    creating.settle()


def warn(fleet: LiveFleet, pod: Object, reason: str, message: str, time: datetime) -> None:
    """What a kubelet, or the controller of attached volumes, tells of a pod."""
    names = {name: pod["metadata"][name] for name in ("name", "namespace", "uid")}
    fleet.client.post(
        f"/api/v1/namespaces/{fleet.namespace}/events",
        {
            "metadata": {"name": reason.lower()},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **names},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 3,
            "lastTimestamp": time.isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
    )


def test_a_status_is_written_only_when_it_says_something_else(
    fleet: LiveFleet, operator: OperatorProcess
) -> None:
    fleet.create({"replicas": 2})
    fleet.settle()
    version = steady_version(fleet)
    passes = passes_of(operator)
    numbers = itertools.count()

    def has_passes() -> bool:
        note = {"metadata": {"annotations": {"example.com/note": str(next(numbers))}}}
        for pod in fleet.pods():
            fleet.client.patch(pod_path(pod), note)
        fleet.client.patch(fleet.child_path("Service"), note)
        return passes_of(operator) > passes + 5

    fleet.wait(has_passes, "the operator looks again and again")
    ends_quiet(fleet, version)


def steady_version(fleet: LiveFleet) -> str:
    """The resourceVersion when it has stopped changing."""
    versions: list[str] = []

    def is_steady() -> bool:
        versions.append(fleet.get()["metadata"]["resourceVersion"])
        return len(versions) > 30 and len(set(versions[-30:])) == 1

    fleet.wait(is_steady, "its status is settled")
    return versions[-1]


def ends_quiet(fleet: LiveFleet, version: str) -> None:
    """Nothing is written to it for some seconds."""
    with pytest.raises(AssertionError, match="it is written"):
        wait_until(
            lambda: fleet.get()["metadata"]["resourceVersion"] != version,
            "it is written",
            QUIET_SECONDS,
        )


def passes_of(operator: OperatorProcess) -> float:
    return operator.metrics()['sampler_operator_reconciles_total{result="ok"}']
