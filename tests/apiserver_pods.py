"""Nodes without machines, and what a kubelet would say about their pods.

Every function changes the object at the API server as the part that it stands for does, and
returns what it became.
"""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.apiserver_client import KubeClient, Object, RefusedError

__all__ = [
    "add_node",
    "bind_pod",
    "fail_pod",
    "list_pods",
    "make_pod_ready",
    "make_pod_unready",
    "make_pod_wait",
    "play_kubelet",
    "pod_path",
    "remove_pod",
]

_numbers: Final = itertools.count(1)


def add_node(client: KubeClient, name: str, *, gpus: int = 0, **resources: str) -> Object:
    """A ready node; ``resources`` add to, or replace, what it can allocate."""
    allocatable = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "500"}
    if gpus:
        allocatable["nvidia.com/gpu"] = str(gpus)
    allocatable |= resources
    ready = _condition("Ready", True, "KubeletReady") | {"lastHeartbeatTime": _now()}
    node = {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": allocatable, "capacity": allocatable, "conditions": [ready]},
    }
    return client.post("/api/v1/nodes", node)


def pod_path(pod: Object) -> str:
    """Where the pod is at the API server."""
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def list_pods(client: KubeClient, namespace: str, selector: str = "") -> list[Object]:
    """The pods of a namespace that match a label selector."""
    return client.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)


def bind_pod(client: KubeClient, pod: Object, node: str) -> Object:
    """What the scheduler does, for pods of a ``schedulerName`` that nobody has."""
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
    client.post(f"{pod_path(pod)}/binding", binding)
    return client.get(pod_path(pod))


def make_pod_ready(client: KubeClient, pod: Object, *, ip: str | None = None) -> Object:
    """All containers run and are ready.

    Without ``ip`` the pod gets an address of its own where nobody is. A loopback address can be
    reached, but no EndpointSlice may have it: the Service of such a pod gets no endpoints any more.
    """
    address = ip or pod.get("status", {}).get("podIP") or _unused_address()
    running = {"running": {"startedAt": _now()}}
    return _set_status(client, pod, "Running", running, is_ready=True, address=address)


def make_pod_unready(client: KubeClient, pod: Object) -> Object:
    """All containers run, and their readiness probes fail."""
    running = {"running": {"startedAt": _now()}}
    return _set_status(client, pod, "Running", running, is_ready=False)


def make_pod_wait(client: KubeClient, pod: Object, reason: str, message: str = "") -> Object:
    """Its containers cannot start; ``reason`` is ``ImagePullBackOff`` or another of a kubelet."""
    waiting = {"waiting": {"reason": reason, "message": message}}
    return _set_status(client, pod, "Pending", waiting, is_ready=False)


def fail_pod(
    client: KubeClient,
    pod: Object,
    *,
    exit_code: int = 1,
    reason: str = "Error",
    message: str = "",
    restarts: int | None = None,
    ran_seconds: float = 0,
) -> Object:
    """Its containers have ended with ``exit_code``, ``ran_seconds`` after their start.

    With ``restarts`` they wait to be started for the next time (CrashLoopBackOff), as with
    ``restartPolicy: Always``; without, the pod has failed for good, as when it is evicted.
    """
    ended = {
        "exitCode": exit_code,
        "reason": reason,
        "message": message,
        "startedAt": _now(-ran_seconds),
        "finishedAt": _now(),
    }
    if restarts is None:
        return _set_status(client, pod, "Failed", {"terminated": ended}, is_ready=False)
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"lastState": {"terminated": ended}, "restartCount": restarts}
    return _set_status(client, pod, "Running", waiting, is_ready=False, more=last)


def remove_pod(client: KubeClient, pod: Object) -> None:
    """The last step of a deletion: its containers have ended. Without it a deleted pod that has a
    node stays, terminating, for ever."""
    preconditions = {"uid": pod["metadata"]["uid"]}
    client.delete(pod_path(pod), {"gracePeriodSeconds": 0, "preconditions": preconditions})


def play_kubelet(client: KubeClient, namespace: str, selector: str = "") -> None:
    """One pass of kubelets for whom all goes well: pods that have a node become ready, deleted
    ones end. Call it in the condition that a test waits for."""
    for pod in list_pods(client, namespace, selector):
        status = pod["status"]
        if "nodeName" not in pod["spec"] or status["phase"] in ("Failed", "Succeeded"):
            continue
        try:
            if "deletionTimestamp" in pod["metadata"]:
                remove_pod(client, pod)
            elif not any(each["ready"] for each in status.get("containerStatuses", [])):
                make_pod_ready(client, pod)
        except RefusedError as refused:
            # Since the list it has gone, or another has its name.
            if refused.code not in (404, 409):
                raise


def _set_status(
    client: KubeClient,
    pod: Object,
    phase: str,
    state: Object,
    *,
    is_ready: bool,
    address: str | None = None,
    more: Object | None = None,
) -> Object:
    containers = pod["spec"]["containers"]
    initial = pod["spec"].get("initContainers", [])
    is_initialised = phase != "Pending"
    done = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": _now()}}
    status: dict[str, Any] = {
        "phase": phase,
        "startTime": pod.get("status", {}).get("startTime") or _now(),
        "conditions": [
            _condition("PodReadyToStartContainers", True),
            _condition("Initialized", is_initialised),
            _condition("ContainersReady", is_ready),
            _condition("Ready", is_ready, "" if is_ready else "ContainersNotReady"),
        ],
        "containerStatuses": [_container(each, state, is_ready, more or {}) for each in containers],
        "initContainerStatuses": [
            _container(each, done if is_initialised else state, is_initialised, {})
            for each in initial
        ],
    }
    if address is not None:
        status |= {"podIP": address, "podIPs": [{"ip": address}], "hostIP": "10.0.0.1"}
    # Conditions have a merge key there, so that PodScheduled stays.
    return client.patch(f"{pod_path(pod)}/status", {"status": status}, kind="strategic-merge")


def _container(container: Object, state: Object, is_ready: bool, more: Object) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "restartCount": 0,
        "ready": is_ready,
        "started": "running" in state,
        "state": state,
    } | more


def _condition(kind: str, holds: bool, reason: str = "") -> Object:
    told = {"type": kind, "status": str(holds), "lastTransitionTime": _now()}
    return told | ({"reason": reason} if reason else {})


def _unused_address() -> str:
    number = next(_numbers)
    return f"10.244.{number // 250}.{number % 250 + 1}"


def _now(after: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%SZ")
