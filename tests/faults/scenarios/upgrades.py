"""The operator or its CRD is upgraded: no pod of an unchanged fleet may notice."""

from typing import Any

from tests.cluster.images import image_name
from tests.e2e_operator import install_operator
from tests.faults.pods import restarts_of
from tests.faults.stage import Stage
from tests.rendered_chart import NAMESPACE, RELEASE

__all__ = ["crd_upgraded", "operator_upgraded"]

_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/samplerdeployments.sampler.dev"


def operator_upgraded(stage: Stage) -> str:
    """`helm upgrade`, to an operator whose image for replicas is another one."""
    other = image_name("sampler-sim") + "-other"
    stage.cluster.tag_image(image_name("sampler-sim"), other)
    before, operator = _pods(stage), _operator(stage)
    stage.strike()
    install_operator(stage.cluster, {"images": {"sim": other}, "logLevel": "debug"})
    stage.wait(lambda: _operator(stage) != operator, "another operator runs")
    stage.fleet.wait_up_to_date()
    stage.for_seconds(5)
    stage.wait_recovered()
    install_operator(stage.cluster)
    assert _pods(stage) == before, "pods were replaced or have restarted"
    replaced = f"{operator} replaced by {_operator(stage)}"
    return f"{replaced}; {len(before)} pods of the fleet the same, restartCount 0"


def crd_upgraded(stage: Stage) -> str:
    """A CRD with one field more."""
    before = _pods(stage)
    crd = stage.cluster.client.get(_CRD)
    generation = crd["metadata"]["generation"]
    [version] = crd["spec"]["versions"]
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"]["fieldOfTheNextVersion"] = {"type": "string"}
    stage.strike()
    stage.cluster.client.put(_CRD, crd)
    stage.for_seconds(5)
    stage.fleet.wait_up_to_date()
    stage.wait_recovered()
    now = stage.cluster.client.get(_CRD)["metadata"]["generation"]
    install_operator(stage.cluster)
    assert now > generation, "the CRD is the same"
    assert _pods(stage) == before, "pods were replaced or have restarted"
    return f"CRD generation {generation} → {now}; {len(before)} pods the same, restartCount 0"


def _pods(stage: Stage) -> set[tuple[str, int]]:
    return {(pod["metadata"]["name"], restarts_of(pod)) for pod in stage.pods.pods}


def _operator(stage: Stage) -> str:
    """Name of the operator's pod that is ready."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pods = stage.cluster.client.items(path, labelSelector=f"app.kubernetes.io/name={RELEASE}")
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return str(alive[0]["metadata"]["name"]) if alive else ""
