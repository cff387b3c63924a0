"""Why a pod has no node, from the scheduler's sentence and the room for devices."""

import re
from typing import Final

from ..observed import PodView
from ..ports import DeviceRoom
from ..spec import SamplerDeployment
from .counts import max_unavailable
from .fault import Fault, Gravity, shortened
from .reasons import Reason

__all__ = ["scheduling_fault"]

# What follows says only that preemption would not help either.
_TAIL: Final = re.compile(
    r"\.? *(no new claims to deallocate|still not schedulable|preemption: ).*$", re.DOTALL
)
_CLAIM: Final = re.compile(
    r'persistentvolumeclaim "(?P<name>[^"]+)" (?P<problem>not found|is being deleted'
    r'|bound to non-existent persistentvolume "[^"]*")'
)
_UNBOUND: Final = re.compile(
    "unbound immediate PersistentVolumeClaims|didn't find available persistent volumes to bind"
    "|bound to non-existent pv"
)
_HINTS: Final = (
    ("untolerated taint", "spec.tolerations"),
    ("node affinity/selector", "spec.nodeSelector and spec.affinity"),
    ("Insufficient cpu", "spec.resources.requests"),
    ("Insufficient memory", "spec.resources.requests"),
    ("topology spread constraints", "spec.topologySpreadConstraints"),
)


def scheduling_fault(
    pod: PodView, sd: SamplerDeployment, pods: tuple[PodView, ...], room: DeviceRoom | None
) -> Fault | None:
    """The fault of a pod that the scheduler could not place; None if that is not so."""
    scheduled = pod.conditions.get("PodScheduled")
    if scheduled is None or scheduled.status != "False":
        return None
    if scheduled.reason == "SchedulingGated":
        text = "waits for its scheduling gates to be lifted"
        return Fault(Reason.PENDING, text, Gravity.WAITING, pod.name)
    text = shortened(_TAIL.sub("", scheduled.message)).rstrip(".")
    claim = _claim_fault(pod, text, sd.metadata.namespace)
    if claim is not None:
        return claim
    if f"Insufficient {sd.spec.gpu.resource_name}" in text:
        return _device_fault(pod, sd, pods, room, text)
    hints = list(dict.fromkeys(hint for part, hint in _HINTS if part in text))
    advice = f"; see {', '.join(hints)}" if hints else ""
    return Fault(Reason.UNSCHEDULABLE, f"{text or 'no node takes it'}{advice}", pod=pod.name)


def _claim_fault(pod: PodView, text: str, namespace: str) -> Fault | None:
    named = _CLAIM.search(text)
    if named is not None:
        name, problem = named["name"], named["problem"].replace("not found", "does not exist")
        said = f"PersistentVolumeClaim {name} {problem}"
        if problem == "does not exist":
            said += f"; create it in namespace {namespace}"
        return Fault(Reason.VOLUME_UNBOUND, said, Gravity.STUCK, pod.name)
    if _UNBOUND.search(text):
        said = (
            "a PersistentVolumeClaim has no volume yet; give it a storageClassName if the cluster"
            f" has no default StorageClass, see kubectl describe pvc in namespace {namespace}"
            f" ({text})"
        )
        return Fault(Reason.VOLUME_UNBOUND, said, pod=pod.name)
    return None


def _device_fault(
    pod: PodView,
    sd: SamplerDeployment,
    pods: tuple[PodView, ...],
    room: DeviceRoom | None,
    text: str,
) -> Fault:
    name, count = sd.spec.gpu.resource_name, sd.spec.gpu_count
    need = f"needs {count} {name} on one node"
    if room is None:
        return Fault(Reason.UNSCHEDULABLE, f"{need}: {text}", pod=pod.name)
    if room.largest_node == 0:
        said = f"{need}, but no node has any; add such nodes, or install their device plugin"
        return Fault(Reason.UNSCHEDULABLE, said, pod=pod.name)
    if room.largest_node < count:
        said = f"{need}, but no node has more than {room.largest_node}"
        return Fault(Reason.UNSCHEDULABLE, f"{said}; {_fewer(sd)}", pod=pod.name)
    if room.largest_free >= count:
        return Fault(Reason.UNSCHEDULABLE, f"{need}: {text}", pod=pod.name)
    need += f", largest free is {room.largest_free}"
    others = [other for other in pods if other.node and other.name != pod.name]
    leaving = sum(other.is_leaving for other in others)
    if leaving:
        said = f"{need}; waits for {leaving} of this fleet's pods that are leaving"
        return Fault(Reason.PENDING, said, Gravity.WAITING, pod.name)
    old = [other for other in others if other.template != pod.template and other.phase == "Running"]
    if old and sd.spec.rollout.strategy == "RollingUpdate":
        # With none allowed to be missing, the old pods stay until the new one runs: for ever.
        is_stuck = max_unavailable(sd) == 0
        said = (
            f"{need}, because this fleet's own old pods hold them; raise rollout.maxUnavailable or"
            " use rollout.strategy Recreate"
        )
        gravity = Gravity.STUCK if is_stuck else Gravity.HEALING
        return Fault(Reason.UNSCHEDULABLE, said, gravity, pod.name)
    said = f"{need}; free some, add nodes or lower replicas"
    return Fault(Reason.UNSCHEDULABLE, said, pod=pod.name)


def _fewer(sd: SamplerDeployment) -> str:
    if sd.spec.tensor_parallel_size > 1:
        return "lower tensorParallelSize or add larger nodes"
    return "add larger nodes"
