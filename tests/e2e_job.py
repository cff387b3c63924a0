"""Training jobs of a real cluster: the one of manifests/examples/job.yaml, and others like it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.cluster import Cluster
from tests.cluster.images import image_name
from tests.kube_commands import KubeCommands
from tests.proxy import wait_until

__all__ = ["ACCOUNT", "JOB_NODE", "TrainingJob", "example_job"]

_EXAMPLE: Final = Path(__file__).parent.parent / "manifests" / "examples" / "job.yaml"
_END_SECONDS: Final = 120
ACCOUNT: Final = "trainer"
# Of a cluster of this machine: the one that has the image of jobs, which is large.
JOB_NODE: Final = 0

Object = dict[str, Any]


def example_job() -> tuple[Object, Object, Object]:
    """Service account, binding and job of the example."""
    account, binding, job = yaml.safe_load_all(_EXAMPLE.read_text())
    return account, binding, job


class TrainingJob:
    """A job like that of the example, in ``namespace``, with the image that tests have built.

    ``target`` takes the place of the example's fleet, ``script`` that of its program.
    """

    def __init__(
        self,
        cluster: KubeCommands,
        namespace: str,
        name: str,
        *,
        target: str = "",
        script: str = "",
        change: Callable[[Object], None] = lambda pod: None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        _, binding, self._job = example_job()
        self._job["metadata"] = {"name": name, "namespace": namespace}
        pod: Object = self._job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        container["image"] = image_name("sampler-job")
        text: str = script or container["command"][-1]
        if target:
            fleet = f"k8s://{binding['metadata']['namespace']}/sim"
            assert fleet in text
            text = text.replace(fleet, target)
        container["command"] = ["python", "-c", text]
        if isinstance(cluster, Cluster):
            pod["nodeSelector"] = {"kubernetes.io/hostname": cluster.node_names[JOB_NODE]}
        # The nodes of these tests are small.
        container["resources"] = {"requests": {"cpu": "200m", "memory": "256Mi"}}
        self._job["spec"]["backoffLimit"] = 0
        change(pod)

    def run(self, *others: Object) -> list[str]:
        """Apply it with other objects; when it has ended well, the lines of its log."""
        self.start(*others)
        return self.lines()

    def start(self, *others: Object) -> None:
        """Apply it with other objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": [*others, self._job]}
        self._cluster.kubectl("apply", "-f", "-", input=json.dumps(listed))

    def lines(self) -> list[str]:
        """What it has written, when it has ended well."""
        name, where = f"job/{self._name}", f"--namespace={self._namespace}"
        found: dict[str, str] = {}

        def has_ended() -> bool:
            told = self._cluster.kubectl("get", name, where, "--output=json").stdout
            conditions: Sequence[Object] = json.loads(told)["status"].get("conditions", ())
            found.update({each["type"]: each["status"] for each in conditions})
            return "True" in (found.get("Complete"), found.get("Failed"))

        wait_until(has_ended, f"{name} has ended", _END_SECONDS, 0.3)
        log = self._cluster.kubectl("logs", name, where).stdout
        assert found.get("Complete") == "True", log
        return log.splitlines()
