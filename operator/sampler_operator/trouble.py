"""When a pass has to look further than the watches show: events of a pod, room for devices."""

from datetime import UTC, datetime
from typing import Final

from .observed import PodView
from .spec import SamplerDeployment

__all__ = ["CREATING_SECONDS", "age_seconds", "is_stuck", "seconds_until_stuck", "wants_room"]

CREATING_SECONDS = 20.0
"""A pod whose containers are created for longer than this has a problem that only events tell."""

_BEFORE_START: Final = frozenset({"ContainerCreating", "PodInitializing"})


def age_seconds(pod: PodView, now: datetime) -> float:
    """Seconds since the pod was created; 0 where the clock is behind the cluster's."""
    try:
        created = datetime.fromisoformat(pod.created)
    except ValueError:
        return 0.0
    if created.tzinfo is None:
        created = created.replace(tzinfo=UTC)
    return max(0.0, (now - created).total_seconds())


def _is_creating(pod: PodView) -> bool:
    """Nothing of it has run yet. What came further tells its own troubles, and a download may take
    long without being one."""
    if pod.is_leaving or pod.phase != "Pending" or not pod.node:
        return False
    if any(c.is_running for c in pod.containers):
        return False
    waits = {c.waiting_reason for c in pod.containers if c.waiting_reason}
    return not pod.containers or (bool(waits) and waits <= _BEFORE_START)


def is_stuck(pod: PodView, now: datetime) -> bool:
    """The kubelet works on it for suspiciously long."""
    return _is_creating(pod) and age_seconds(pod, now) > CREATING_SECONDS


def seconds_until_stuck(pod: PodView, now: datetime) -> float | None:
    """When to look at it again, if nothing happens before."""
    if not _is_creating(pod) or is_stuck(pod, now):
        return None
    return CREATING_SECONDS - age_seconds(pod, now) + 0.5


def wants_room(pod: PodView, sd: SamplerDeployment) -> bool:
    """The scheduler found no node with enough of the fleet's devices."""
    scheduled = pod.conditions.get("PodScheduled")
    return (
        sd.spec.gpu_count > 0
        and not pod.is_leaving
        and scheduled is not None
        and scheduled.status == "False"
        and sd.spec.gpu.resource_name in scheduled.message
    )
