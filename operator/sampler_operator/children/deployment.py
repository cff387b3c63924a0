"""The Deployment of a fleet."""

from .. import names
from ..objects import Manifest, key_of, metadata
from ..pod import Template
from ..spec import SamplerDeployment

__all__ = ["deployment"]

_HISTORY = 3


def deployment(sd: SamplerDeployment, template: Template) -> Manifest:
    """Replicas of ``template``."""
    spec, key = sd.spec, key_of(sd)
    meta = metadata(sd, names.deployment_name(key))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**meta, "annotations": template.annotations()},
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": names.selector(key)},
            "template": template.manifest,
            "strategy": _strategy(sd),
            "minReadySeconds": spec.min_ready_seconds,
            "paused": spec.paused,
            "progressDeadlineSeconds": spec.progress_deadline_seconds,
            "revisionHistoryLimit": _HISTORY,
        },
    }


def _strategy(sd: SamplerDeployment) -> Manifest:
    rollout = sd.spec.rollout
    if rollout.strategy == "Recreate":
        # The null takes away what a former RollingUpdate left; without it the API server refuses.
        return {"type": "Recreate", "rollingUpdate": None}
    rolling = {"maxSurge": rollout.max_surge, "maxUnavailable": rollout.max_unavailable}
    return {"type": "RollingUpdate", "rollingUpdate": rolling}
