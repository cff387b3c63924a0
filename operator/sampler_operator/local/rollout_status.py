"""How a rollout goes, in the words of a Deployment's status. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..objects import Manifest
from .rollout import PodState, Wanted

__all__ = ["Progress", "status_of"]


@dataclass(slots=True)
class Progress:
    """Since when a rollout stands where it stands; seconds of any clock."""

    since: float = 0.0
    _seen: tuple[Any, ...] = ()

    def saw(self, wanted: Wanted, pods: Sequence[PodState], now: float) -> None:
        """Look at the pods; a rollout moves when more of them are new, ready or available."""
        counts = _counts(wanted, pods)
        seen = (wanted, counts["replicas"], counts["updatedReplicas"], counts["availableReplicas"])
        if seen != self._seen:
            self._seen, self.since = seen, now


def status_of(
    spec: Mapping[str, Any],
    wanted: Wanted,
    pods: Sequence[PodState],
    generation: int,
    progress: Progress,
    now: float,
) -> Manifest:
    """The status of the Deployment."""
    counts = _counts(wanted, pods)
    is_available = counts["availableReplicas"] >= wanted.replicas - wanted.max_unavailable
    available = {
        "type": "Available",
        "status": "True" if is_available else "False",
        "reason": f"MinimumReplicas{'Available' if is_available else 'Unavailable'}",
    }
    status, reason = _progressing(spec, wanted, counts, now - progress.since)
    progressing = {"type": "Progressing", "status": status, "reason": reason}
    return {"observedGeneration": generation, **counts, "conditions": [available, progressing]}


def _progressing(
    spec: Mapping[str, Any], wanted: Wanted, counts: Mapping[str, int], stood: float
) -> tuple[str, str]:
    if wanted.is_paused:
        return "Unknown", "DeploymentPaused"
    if all(count == wanted.replicas for name, count in counts.items() if name != "readyReplicas"):
        return "True", "NewReplicaSetAvailable"
    if stood >= spec.get("progressDeadlineSeconds", 600):
        return "False", "ProgressDeadlineExceeded"
    return "True", "ReplicaSetUpdated"


def _counts(wanted: Wanted, pods: Sequence[PodState]) -> dict[str, int]:
    active = [pod for pod in pods if not pod.is_leaving]
    return {
        "replicas": len(active),
        "updatedReplicas": sum(pod.template == wanted.template for pod in active),
        "readyReplicas": sum(pod.is_ready for pod in active),
        "availableReplicas": sum(pod.is_available for pod in active),
    }
