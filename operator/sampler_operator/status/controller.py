"""Faults that the Deployment tells: pods that may not be made, rollouts that take too long."""

import re
from typing import Final

from ..observed import DeploymentView
from ..spec import SamplerDeployment
from .fault import Fault, Gravity, shortened
from .reasons import Reason

__all__ = ["deadline_fault", "is_rolled_out", "refusal_fault"]

_PASSING: Final = (
    "Internal error occurred",
    "the object has been modified",
    "timeout",
    "timed out",
)
# The name is of a pod that was never made, and another one each time.
_PREFIX: Final = re.compile(
    r'^(?:pods? "[^"]*" (?:is|are) (?:forbidden|invalid)|Pod "[^"]*" is invalid): '
)
_HINTS: Final = (
    ("exceeded quota", "raise the ResourceQuota or ask for less"),
    ("violates PodSecurity", "see spec.podSecurityContext and spec.podTemplateOverrides"),
    ("no PriorityClass", "correct spec.priorityClassName"),
    ("RuntimeClass", "correct spec.runtimeClassName"),
    ("service account", "correct spec.serviceAccountName"),
)


def refusal_fault(deployment: DeploymentView | None) -> Fault | None:
    """Why the cluster does not let the Deployment make pods: quota, limits, Pod Security, webhooks.
    None if it may."""
    if deployment is None:
        return None
    failure = deployment.conditions.get("ReplicaFailure")
    progressing = deployment.conditions.get("Progressing")
    if failure is not None and failure.status == "True" and failure.reason != "FailedDelete":
        message = failure.message
    elif progressing is not None and progressing.reason == "ReplicaSetCreateError":
        message = progressing.message
    else:
        return None
    text = shortened(_PREFIX.sub("", message)).rstrip(".")
    hint = next((f"; {hint}" for part, hint in _HINTS if part in text), "")
    gravity = Gravity.HEALING if any(p in text for p in _PASSING) else Gravity.STUCK
    return Fault(Reason.POD_REFUSED, f"the cluster refuses pods: {text}{hint}", gravity)


def deadline_fault(deployment: DeploymentView | None, sd: SamplerDeployment) -> Fault | None:
    """The rollout of the present spec makes no progress any more."""
    if deployment is None or deployment.observed_generation < deployment.generation:
        return None
    progressing = deployment.conditions.get("Progressing")
    if progressing is None or progressing.reason != "ProgressDeadlineExceeded":
        return None
    said = (
        f"the rollout has made no progress for {sd.spec.progress_deadline_seconds} s"
        " (rollout.progressDeadlineSeconds)"
    )
    return Fault(Reason.PROGRESS_DEADLINE_EXCEEDED, said, Gravity.STUCK)


def is_rolled_out(deployment: DeploymentView) -> bool:
    """Whether no rollout is under way: what misses misses for another reason."""
    progressing = deployment.conditions.get("Progressing")
    return progressing is None or progressing.reason in (
        "NewReplicaSetAvailable",
        "DeploymentPaused",
    )
