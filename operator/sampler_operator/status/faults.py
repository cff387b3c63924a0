"""Why a pod does not serve: one fault for each pod that is not ready."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from .. import names
from ..observed import ContainerView, PodView
from ..ports import Event
from ..reports import Report
from ..spec import SamplerDeployment
from ..trouble import age_seconds, is_stuck
from .containers import container_fault, missing_object, other_base
from .fault import Fault, Gravity, shortened
from .reasons import Reason
from .scheduling import scheduling_fault
from .situation import Situation

__all__ = ["pod_fault", "pod_faults"]

_RECENT_SECONDS: Final = 600.0
_NODE_REASONS: Final = frozenset({"NodeLost", "NodeShutdown", "Terminated"})
_MOUNT_EVENTS: Final = frozenset({"FailedAttachVolume", "FailedMount", "FailedMapVolume"})


def pod_faults(sd: SamplerDeployment, situation: Situation, now: datetime) -> tuple[Fault, ...]:
    """The faults of all pods, in the order of the pods."""
    found = (pod_fault(pod, sd, situation, now) for pod in situation.observed.pods)
    return tuple(fault for fault in found if fault is not None)


def pod_fault(
    pod: PodView, sd: SamplerDeployment, situation: Situation, now: datetime
) -> Fault | None:
    """Why the pod does not serve; None if it does, or if it leaves."""
    if pod.is_leaving or pod.is_ready or pod.phase == "Succeeded":
        return None
    if pod.phase == "Failed":
        return _failed(pod, now)
    if _is_on_lost_node(pod):
        return Fault(Reason.NODE_LOST, f"node {pod.node} does not answer", pod=pod.name)
    warnings = situation.warnings.get(pod.name, ())
    report = situation.reports.get(pod.name)
    if report is not None and report.life != pod.life:
        report = None
    return (
        scheduling_fault(pod, sd, situation.observed.pods, situation.room)
        or container_fault(pod, sd)
        or (_creation_fault(pod, sd, warnings) if is_stuck(pod, now) else None)
        or _serving_fault(pod, report, situation.config.bases.get(pod.template))
        or _pending(pod)
    )


def _failed(pod: PodView, now: datetime) -> Fault | None:
    """Such a pod is replaced, and stays for people to see; after a while it explains nothing."""
    if age_seconds(pod, now) > _RECENT_SECONDS:
        return None
    said = shortened(pod.status_message)
    if pod.status_reason == "Evicted":
        return Fault(Reason.EVICTED, f"was evicted: {said}", pod=pod.name)
    if pod.status_reason in _NODE_REASONS:
        return Fault(Reason.NODE_LOST, said or "its node was shut down", pod=pod.name)
    said = said.removeprefix("Pod was rejected: ") or "has failed"
    if pod.status_reason:
        said = f"node {pod.node} rejected it ({pod.status_reason}): {said}"
    return Fault(Reason.POD_REJECTED, said, pod=pod.name)


def _is_on_lost_node(pod: PodView) -> bool:
    """When a node falls silent, Kubernetes sets its pods' Ready to False and leaves the rest of
    their status as the kubelet last wrote it."""
    ready, containers = pod.conditions.get("Ready"), pod.conditions.get("ContainersReady")
    if ready is None or containers is None:
        return False
    return (
        ready.status == "False"
        and containers.status == "True"
        and ready.reason != "ReadinessGatesNotReady"
    )


def _creation_fault(pod: PodView, sd: SamplerDeployment, warnings: Sequence[Event]) -> Fault | None:
    for warning in warnings:
        said = shortened(warning.message)
        if warning.reason in _MOUNT_EVENTS:
            absent = missing_object(said)
            if absent:
                said = f"{absent} in namespace {sd.metadata.namespace}; create it ({said})"
                return Fault(Reason.MOUNT_FAILED, said, Gravity.STUCK, pod.name)
            if "Multi-Attach error" in said:
                said += "; replicas on several nodes need a ReadWriteMany claim"
            return Fault(Reason.MOUNT_FAILED, said, pod=pod.name)
        if warning.reason == "FailedCreatePodSandBox":
            return Fault(Reason.CONTAINER_FAILED, said, pod=pod.name)
    return None


def _serving_fault(pod: PodView, report: Report | None, base: str | None) -> Fault | None:
    """The fault of a replica whose server runs: it says of itself why it is not ready."""
    server = next((c for c in pod.containers if c.name == names.CONTAINER), None)
    if server is None or not server.is_running:
        return None
    status = report.status if report is not None else None
    own = shortened(status.reason) if status is not None else ""
    if status is not None and base is not None and status.base not in (None, base):
        said = other_base(own) or f"base {status.base} differs from {base} of this template"
        said += "; set model.digest, or fix model.revision to one commit"
        return Fault(Reason.MODEL_MISMATCH, said, Gravity.STUCK, pod.name)
    if not server.is_started:
        return Fault(Reason.STARTING, own or "its engine is starting", Gravity.WAITING, pod.name)
    return Fault(Reason.NOT_READY, own or _probe_sentence(pod, server, report), pod=pod.name)


def _probe_sentence(pod: PodView, server: ContainerView, report: Report | None) -> str:
    if report is not None and report.error:
        return f"does not answer: {shortened(report.error)}"
    ready = pod.conditions.get("Ready")
    if server.is_ready and ready is not None and ready.message:
        return shortened(ready.message)
    return "its readiness probe has not passed"


def _pending(pod: PodView) -> Fault:
    if any(c.name == names.FETCH_CONTAINER and c.is_running for c in pod.containers):
        return Fault(Reason.STARTING, "its model is being fetched", Gravity.WAITING, pod.name)
    said = f"its containers are being created on node {pod.node}" if pod.node else "has no node yet"
    return Fault(Reason.PENDING, said, Gravity.WAITING, pod.name)
