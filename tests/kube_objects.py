"""Pods and Deployments as a cluster reports them, and passes that have seen them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.spec_cases import MINIMAL, changed

from sampler_api.fleet import AdaptersConfig
from sampler_operator.errors import ClusterError
from sampler_operator.names import FLEET_LABEL, TEMPLATE_HASH_LABEL, Ref
from sampler_operator.objects import Manifest
from sampler_operator.observed import ChildView, Observed, PodView, child_view, pod_view
from sampler_operator.plan import BuildSettings, planned
from sampler_operator.ports import DeviceRoom, Event
from sampler_operator.reports import Report
from sampler_operator.spec import SamplerDeployment
from sampler_operator.spec.parse import parse
from sampler_operator.status import Situation

__all__ = [
    "NOW",
    "ago",
    "deployment",
    "ended",
    "fleet",
    "pod",
    "pod_condition",
    "running",
    "situation",
    "termination",
    "waiting",
]

NOW: Final = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
SETTINGS: Final = BuildSettings({"vllm": "acme/vllm:1", "torch": "acme/torch:1", "sim": "acme/sim"})
UID: Final = "5f1c"


def ago(seconds: float) -> str:
    """A time before NOW as Kubernetes writes it."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def fleet(
    spec: Mapping[str, Any] | None = None,
    *,
    generation: int = 1,
    status: Manifest | None = None,
) -> Manifest:
    """A SamplerDeployment ``fleet`` in namespace ``rl``, of MINIMAL with changes."""
    return {
        "apiVersion": "sampler.dev/v1alpha1",
        "kind": "SamplerDeployment",
        "metadata": {"name": "fleet", "namespace": "rl", "uid": UID, "generation": generation},
        "spec": changed(MINIMAL, dict(spec or {})),
        **({"status": status} if status is not None else {}),
    }


def waiting(reason: str, message: str = "", *, restarts: int = 0, last: Any = None) -> Manifest:
    """State of a container that waits; ``last`` is how it ended before."""
    state = {"reason": reason, **({"message": message} if message else {})}
    return _container({"waiting": state}, restarts, last)


def running(
    *, started: bool = False, ready: bool = False, restarts: int = 0, last: Any = None
) -> Manifest:
    """State of a container that runs."""
    state = {"running": {"startedAt": ago(30)}}
    return {**_container(state, restarts, last), "started": started, "ready": ready}


def ended(code: int, reason: str = "Error", message: str = "", *, restarts: int = 0) -> Manifest:
    """State of a container that has ended."""
    return _container({"terminated": termination(code, reason, message)}, restarts, None)


def termination(
    code: int, reason: str = "Error", message: str = "", *, ran: float | None = None
) -> Manifest:
    """How a container ended, after how many seconds."""
    times = {} if ran is None else {"startedAt": ago(ran), "finishedAt": ago(0)}
    said = {"message": message} if message else {}
    return {"exitCode": code, "reason": reason, **said, **times}


def _container(state: Manifest, restarts: int, last: Any) -> Manifest:
    return {
        "state": state,
        "lastState": {"terminated": last} if last else {},
        "ready": False,
        "started": False,
        "restartCount": restarts,
    }


def pod_condition(kind: str, status: str, reason: str = "", message: str = "") -> Manifest:
    """A condition of a pod."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


def pod(
    name: str = "fleet-a-1",
    *,
    template: str = "a",
    node: str = "node-1",
    phase: str = "Pending",
    age: float = 60,
    server: Manifest | None = None,
    fetch: Manifest | None = None,
    conditions: Sequence[Manifest] = (),
    unschedulable: str = "",
    is_ready: bool = False,
    is_leaving: bool = False,
    reason: str = "",
    message: str = "",
) -> PodView:
    """A pod of the fleet as the operator remembers it."""
    if is_ready:
        phase, server = "Running", server or running(started=True, ready=True)
    elif server is not None and "running" in server["state"]:
        phase = "Running"
    found = {each["type"]: each for each in conditions}
    if unschedulable:
        node = ""
        found["PodScheduled"] = pod_condition(
            "PodScheduled", "False", "Unschedulable", unschedulable
        )
    elif node:
        found.setdefault("PodScheduled", pod_condition("PodScheduled", "True"))
    if server is not None:
        word = "True" if is_ready else "False"
        unready = "" if is_ready else "containers with unready status: [server]"
        for kind in ("ContainersReady", "Ready"):
            why = "" if is_ready else "ContainersNotReady"
            found.setdefault(kind, pod_condition(kind, word, why, unready))
    status: Manifest = {
        "phase": phase,
        "conditions": list(found.values()),
        "reason": reason,
        "message": message,
        "podIP": "10.0.0.1" if server is not None and "running" in server["state"] else "",
        "initContainerStatuses": [{"name": "fetch-model", **fetch}] if fetch else [],
        "containerStatuses": [{"name": "server", **server}] if server else [],
    }
    return pod_view(
        {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "labels": {FLEET_LABEL: "fleet", TEMPLATE_HASH_LABEL: template},
                "creationTimestamp": ago(age),
                **({"deletionTimestamp": ago(1)} if is_leaving else {}),
            },
            "spec": {"nodeName": node} if node else {},
            "status": status,
        }
    )


def deployment(
    replicas: int,
    updated: int | None = None,
    ready: int = 0,
    available: int | None = None,
    *,
    generation: int = 1,
    seen: int | None = None,
    progressing: tuple[str, str] = ("True", "ReplicaSetUpdated"),
    failure: str = "",
) -> ChildView:
    """The Deployment of the fleet; ``failure`` is the message of ReplicaFailure."""
    conditions = [
        {"type": "Progressing", "status": progressing[0], "reason": progressing[1], "message": ""}
    ]
    if failure:
        conditions.append(
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": failure,
            }
        )
    return child_view(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "fleet", "namespace": "rl", "generation": generation},
            "spec": {},
            "status": {
                "observedGeneration": generation if seen is None else seen,
                "replicas": replicas,
                "updatedReplicas": replicas if updated is None else updated,
                "readyReplicas": ready,
                "availableReplicas": ready if available is None else available,
                "conditions": conditions,
            },
        }
    )


def situation(
    sd: Manifest,
    pods: Sequence[PodView] = (),
    child: ChildView | None = None,
    *,
    config: AdaptersConfig | None = None,
    reports: Mapping[str, Report] | None = None,
    warnings: Mapping[str, Sequence[Event]] | None = None,
    room: DeviceRoom | None = None,
    failures: tuple[ClusterError, ...] = (),
) -> tuple[SamplerDeployment, Situation]:
    """What a pass has found."""
    made = parse(sd)
    children = {Ref("Deployment", "fleet"): child} if child is not None else {}
    observed, config = Observed(sd, children, tuple(pods)), config or AdaptersConfig()
    return made, Situation(
        observed=observed,
        plan=planned(made, observed, config, SETTINGS),
        config=config,
        reports=reports or {},
        warnings=warnings or {},
        room=room,
        failures=failures,
    )
