"""The fleet changes: another template, another number of replicas."""

import signal
from typing import Any, Final

from tests.apiserver_client import Object
from tests.cluster.images import image_name
from tests.faults.pods import ending_of, restarts_of
from tests.faults.stage import Stage
from tests.rendered_chart import NAMESPACE

from sampler_server.engines.sim import base_digest

__all__ = [
    "argument_changed",
    "image_changed",
    "model_changed",
    "operator_killed",
    "rolled_out",
    "scaled",
]

_OTHER_MODEL: Final = "policy-2"


def argument_changed(stage: Stage) -> str:
    """Another argument of the engine."""
    return rolled_out(stage, engine={"sim": {"jitter": 0.05}})


def image_changed(stage: Stage) -> str:
    """Another image, of the same content."""
    other = image_name("sampler-sim") + "-other"
    stage.cluster.tag_image(image_name("sampler-sim"), other)
    return rolled_out(stage, image=other)


def operator_killed(stage: Stage) -> str:
    """The operator's process is killed when the first replica has been told to leave."""
    before = _names(stage.pods.pods)
    stage.strike()
    stage.change(engine={"sim": {"jitter": 0.05}})
    stage.wait(lambda: stage.pods.told_to_leave, "the rollout has begun")
    operator = _operator(stage)
    stage.cluster.signal_container(operator, "operator", signal.SIGKILL)
    stage.wait(lambda: restarts_of(_operator(stage)) > restarts_of(operator), "it has restarted")
    told = f"operator: {ending_of(_operator(stage))}"
    return f"{told}; {_all_replaced(stage, before)}"


def model_changed(stage: Stage) -> str:
    """Another model: calls of the old one end on it, or are told that it is gone."""
    stage.bases.append(base_digest(_OTHER_MODEL))
    return rolled_out(stage, model={"uri": f"sim://{_OTHER_MODEL}"})


def scaled(stage: Stage) -> str:
    """`kubectl scale` from 1 to 4 replicas and, when all of them have work, to 1."""
    _scale(stage, 4)
    stage.wait(lambda: len(stage.pods.ready) == 4, "4 replicas are ready")
    stage.wait(lambda: len(set(stage.running().values())) == 4, "4 replicas have work")
    stage.strike()
    _scale(stage, 1)
    stage.wait_recovered(lambda: len(stage.pods.pods) == 1)
    return f"{len(stage.pods.told_to_leave)} of 4 pods with deletionTimestamp, gone"


def _scale(stage: Stage, number: int) -> None:
    stage.kubectl("scale", f"sd/{stage.name}", f"--replicas={number}")
    stage.spec = {**stage.spec, "replicas": number}


def rolled_out(stage: Stage, **changes: Any) -> str:
    """Change the spec; returns when all replicas are of the new one."""
    before = _names(stage.pods.pods)
    stage.strike()
    stage.change(**changes)
    return _all_replaced(stage, before)


def _all_replaced(stage: Stage, before: set[str]) -> str:
    stage.wait_recovered(lambda: not _names(stage.pods.pods) & before)
    stage.fleet.wait_up_to_date()
    return f"UpToDate with {len(before)} of {len(before)} pods replaced"


def _names(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def _operator(stage: Stage) -> Object:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    named = "app.kubernetes.io/name=sampler-operator"
    [pod] = stage.cluster.client.items(path, labelSelector=named)
    return pod
