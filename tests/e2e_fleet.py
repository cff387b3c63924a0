"""A fleet of a real cluster, as its user sees it through kubectl."""

import json
from pathlib import Path
from typing import Any, Final

from tests.kube_commands import KubeCommands

from sampler_api.names import DATA_PORT

__all__ = ["E2eFleet", "Object", "endpoint_of"]

_EXAMPLES: Final = Path(__file__).parent.parent / "manifests" / "examples"
_WAIT_SECONDS: Final = 90

Object = dict[str, Any]


class E2eFleet:
    """SamplerDeployment ``name`` of a namespace."""

    def __init__(self, cluster: KubeCommands, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name

    def apply(self, example: str) -> None:
        """`kubectl apply -f manifests/examples/EXAMPLE`."""
        self._kubectl("apply", "-f", str(_EXAMPLES / example))

    def wait_up_to_date(self) -> None:
        """What the documentation waits with: all replicas are of the newest spec, and ready."""
        self._kubectl(
            *("wait", f"sd/{self.name}", "--for=condition=UpToDate"),
            f"--timeout={_WAIT_SECONDS}s",
            seconds=_WAIT_SECONDS + 10,
        )

    def pods(self) -> list[Object]:
        """Of the fleet, those that end among them."""
        selector = f"--selector=app.kubernetes.io/instance={self.name}"
        listed = json.loads(self._kubectl("get", "pods", selector, "--output=json"))
        pods: list[Object] = listed["items"]
        return pods

    def ready_pods(self) -> list[Object]:
        """Those that serve."""
        return [pod for pod in self.pods() if _is_ready(pod)]

    def pod_names(self) -> set[str]:
        """Of all pods."""
        return {pod["metadata"]["name"] for pod in self.pods()}

    def ready_names(self) -> set[str]:
        """Of those that serve."""
        return {pod["metadata"]["name"] for pod in self.ready_pods()}

    def delete_pod(self, name: str) -> None:
        """`kubectl delete pod`, with the grace that the pod asks for; returns at once."""
        self._kubectl("delete", "pod", name, "--wait=false")

    def table(self, *words: str) -> str:
        """What `kubectl get sd` prints."""
        return self._kubectl("get", "sd", *words)

    def _kubectl(self, *words: str, seconds: float = 50) -> str:
        done = self.cluster.kubectl("--namespace", self.namespace, *words, seconds=seconds)
        return done.stdout


def endpoint_of(pod: Object) -> str:
    """Where a replica is, for a RemoteSampler."""
    return f"http://{pod['status']['podIP']}:{DATA_PORT}"


def _is_ready(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
