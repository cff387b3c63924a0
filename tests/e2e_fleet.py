"""A fleet of a real cluster, as its user sees it through kubectl."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from tests.kube_commands import KubeCommands
from tests.spec_cases import changed

from sampler_api.names import DATA_PORT

__all__ = ["E2eFleet", "Object", "ended_by_themselves", "endpoint_of"]

_EXAMPLES: Final = Path(__file__).parent.parent / "manifests" / "examples"
_WAIT_SECONDS: Final = 90

Object = dict[str, Any]


class E2eFleet:
    """SamplerDeployment ``name`` of a namespace."""

    def __init__(self, cluster: KubeCommands, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name

    def apply(self, example: str, patch: Object | None = None) -> None:
        """`kubectl apply -f manifests/examples/EXAMPLE`; with ``patch``, which changes its spec,
        under the name of this fleet."""
        if patch is None:
            self._kubectl("apply", "-f", str(_EXAMPLES / example))
            return
        made: Object = yaml.safe_load((_EXAMPLES / example).read_text())
        made["metadata"]["name"] = self.name
        made["spec"] = changed(made["spec"], patch)
        self.apply_object(made)

    def apply_object(self, made: Object) -> None:
        """`kubectl apply` of any object of the fleet's namespace."""
        self._kubectl("apply", "-f", "-", text=json.dumps(made))

    def delete(self) -> None:
        """`kubectl delete sd`; returns at once."""
        self._kubectl("delete", "sd", self.name, "--wait=false")

    def get(self) -> Object:
        """The SamplerDeployment."""
        made: Object = json.loads(self._kubectl("get", "sd", self.name, "--output=json"))
        return made

    def condition(self, kind: str) -> Object:
        """A condition of its status; empty before there is one."""
        conditions: list[Object] = self.get().get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def wait_up_to_date(self, seconds: float = _WAIT_SECONDS) -> None:
        """What the documentation waits with: all replicas are of the newest spec, and ready."""
        wait = ("wait", f"sd/{self.name}", "--for=condition=UpToDate", f"--timeout={seconds}s")
        try:
            self._kubectl(*wait, seconds=seconds + 10)
        except RuntimeError as error:
            told = "; ".join(
                f"{each['type']} {each['status']} {each['reason']}: {each['message']}"
                for each in self.get().get("status", {}).get("conditions", [])
            )
            raise RuntimeError(f"{error}; its status says {told or 'nothing'}") from None

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
        return self._kubectl("get", *(words or ("sd",)))

    def _kubectl(self, *words: str, text: str | None = None, seconds: float = 50) -> str:
        where = ("--namespace", self.namespace)
        return self.cluster.kubectl(*where, *words, input=text, seconds=seconds).stdout


def endpoint_of(pod: Object) -> str:
    """Where a replica is, for a RemoteSampler."""
    return f"http://{pod['status']['podIP']}:{DATA_PORT}"


def ended_by_themselves(pods: Iterable[Object]) -> list[Object]:
    """How containers that were started again had ended, but for those that went with their node,
    of which nothing is known: tests take nodes away."""
    statuses = [status for pod in pods for status in pod["status"]["containerStatuses"]]
    ended = [status["lastState"]["terminated"] for status in statuses if status["restartCount"]]
    return [each for each in ended if each["reason"] != "Unknown"]


def _is_ready(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
