"""Replicas that cannot be reached, or that are not what they seem."""

from copy import deepcopy
from typing import Final

from tests.apiserver_client import Object
from tests.faults.pods import is_ready, restarts_of
from tests.faults.stage import Stage

__all__ = ["all_gone", "cut_for_10_s", "cut_for_good", "poisoned", "slow"]

_GONE_SECONDS: Final = 30
_EXTRA: Final = "extra"


def cut_for_10_s(stage: Stage) -> str:
    """Neither client nor replica hears of the other for 10 s."""
    return _cut(stage, 10, is_for_good=False)


def cut_for_good(stage: Stage) -> str:
    """Nor ever again."""
    return _cut(stage, 20, is_for_good=True)


def _cut(stage: Stage, seconds: float, is_for_good: bool) -> str:
    pod = stage.busiest()
    stage.strike(pod)
    stage.cluster.cut_pod(pod)
    try:
        stage.for_seconds(seconds)
        dropped = stage.cluster.packets_cut(pod)
        if is_for_good:
            stage.before_end(lambda: stage.cluster.join_pod(pod))
    finally:
        if not is_for_good:
            stage.cluster.join_pod(pod)
    assert dropped > 0, "nothing was cut"
    now = stage.pods.pod(pod["metadata"]["name"])
    assert now is not None
    assert is_ready(now), "the pod is not ready any more"
    stage.wait_recovered()
    return f"{dropped} packets dropped, the pod Ready, restartCount {restarts_of(now)}"


def slow(stage: Stage) -> str:
    """One more replica, ten times as slow as the others."""
    return _with_one_more(stage, "--sim-slow", "10")


def poisoned(stage: Stage) -> str:
    """One more replica, which is ready and answers every sequence with an error."""
    return _with_one_more(stage, "--sim-fail-rate", "1")


def _with_one_more(stage: Stage, *arguments: str) -> str:
    """A pod beside those of the Deployment, in the same fleet."""
    name = f"{stage.name}-{_EXTRA}"
    pod = _copy(stage.pods.ready[0], name, arguments)
    path = f"/api/v1/namespaces/{stage.namespace}/pods"
    stage.cluster.client.post(path, pod)

    def serves() -> bool:
        found = stage.pods.pod(name)
        return found is not None and is_ready(found)

    stage.wait(serves, f"{name} is ready")
    stage.strike()
    stage.wait(lambda: stage.tokens_made(name), "it has got work")
    stage.for_seconds(10)
    stage.recovered()
    return f"pod Ready with {' '.join(arguments)}; {stage.tokens_made(name)} tokens made there"


def _copy(pod: Object, name: str, arguments: tuple[str, ...]) -> Object:
    spec = deepcopy(pod["spec"])
    for field in ("nodeName", "serviceAccount", "serviceAccountName", "tolerations"):
        spec.pop(field, None)
    spec["containers"][0]["args"] += arguments
    # Without the hash of the template no ReplicaSet takes it for one of its own.
    labels = {k: v for k, v in pod["metadata"]["labels"].items() if k != "pod-template-hash"}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def all_gone(stage: Stage) -> str:
    """No replica for 30 s."""
    wanted = stage.spec["replicas"]
    stage.strike()
    _scale(stage, 0)
    stage.wait(lambda: not stage.pods.pods, "no pod is left")
    stage.for_seconds(_GONE_SECONDS)
    reason = stage.condition("Ready").get("reason")
    _scale(stage, wanted)
    stage.wait_recovered()
    return f"no pod for {_GONE_SECONDS} s, Ready=False, {reason}"


def _scale(stage: Stage, number: int) -> None:
    stage.kubectl("scale", f"sd/{stage.name}", f"--replicas={number}")
