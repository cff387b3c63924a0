"""A SamplerDeployment at a real API server, with its children and pods, as a test changes and
watches them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.apiserver_pods import list_pods, play_kubelet
from tests.installed_crd import sampler_path
from tests.proxy import wait_until
from tests.spec_cases import changed, manifest

from sampler_operator.kube.resources import CHILDREN, path_of
from sampler_operator.names import FLEET_LABEL

__all__ = ["SIM", "LiveFleet"]

SIM: Final[Mapping[str, Any]] = {"model": {"uri": "sim://policy"}, "engine": {"sim": {}}}
"""The shortest spec of pods that any node takes."""

_WAIT_SECONDS: Final = 25.0
# Each look costs the API server and this process some milliseconds that the operator needs too.
_PAUSE_SECONDS: Final = 0.05
_NAME_OF: Final = {"ConfigMap": "{}-adapters", "Discovery": "{}-replicas"}


class LiveFleet:
    """One SamplerDeployment, at first without an object. An operator and nodes are needed beside
    it."""

    def __init__(self, server: ApiServer, namespace: str, name: str = "fleet") -> None:
        self.server = server
        self.client = server.client
        self.namespace = namespace
        self.name = name
        self.path = sampler_path(namespace, name)

    def create(self, spec: Mapping[str, Any] | None = None) -> Object:
        """Make it, of SIM with changes."""
        made = manifest(changed(dict(SIM), dict(spec or {})), self.name)
        return self.client.post(sampler_path(self.namespace), made)

    def change(self, spec: Mapping[str, Any]) -> int:
        """Merge into its spec, null deletes; the generation that came of it."""
        generation: int = self.client.patch(self.path, {"spec": spec})["metadata"]["generation"]
        return generation

    def get(self) -> Object:
        """The object."""
        return self.client.get(self.path)

    def status(self) -> Object:
        """Its status, empty at first."""
        found: Object = self.get().get("status", {})
        return found

    def condition(self, kind: str) -> Object:
        """A condition of its status, empty if it lacks it."""
        return next((c for c in self.status().get("conditions", ()) if c["type"] == kind), {})

    def kubectl(
        self, *words: str, spec: Mapping[str, Any] | None = None, check: bool = True
    ) -> str:
        """What kubectl prints about this namespace; ``spec`` is its standard input, as the whole
        object. Of a command that fails, without ``check``, what it complains of."""
        text = None if spec is None else json.dumps(manifest(dict(spec), self.name))
        words = (*words, "--namespace", self.namespace)
        done = self.server.kubectl(*words, input=text, check=check)
        return done.stderr if done.returncode else done.stdout

    # -- its children --------------------------------------------------------------------------

    def child_path(self, kind: str) -> str:
        """Where a child is; ``Discovery`` is the headless Service."""
        name = _NAME_OF.get(kind, "{}").format(self.name)
        return path_of(CHILDREN["Service" if kind == "Discovery" else kind], self.namespace, name)

    def child(self, kind: str) -> Object:
        """A child. Raises RefusedError with code 404 when it is not there."""
        return self.client.get(self.child_path(kind))

    def has_child(self, kind: str) -> bool:
        """It is there, and not about to go."""
        return bool(self.metadata_of(kind))

    def metadata_of(self, kind: str) -> Object:
        """Of a child that is there and not about to go; else empty."""
        try:
            found: Object = self.child(kind)["metadata"]
        except RefusedError as refused:
            if refused.code != 404:
                raise
            return {}
        return {} if "deletionTimestamp" in found else found

    def pods(self) -> list[Object]:
        """Its pods."""
        return list_pods(self.client, self.namespace, f"{FLEET_LABEL}={self.name}")

    def replica_sets(self) -> list[str]:
        """Names of the ReplicaSets of its Deployment: one for each pod template."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/replicasets"
        found = self.client.items(path, labelSelector=f"{FLEET_LABEL}={self.name}")
        return sorted(each["metadata"]["name"] for each in found)

    # -- waiting -------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], object], what: str, seconds: float = _WAIT_SECONDS) -> None:
        """Until ``holds``; else the error shows the status."""
        try:
            wait_until(holds, what, seconds, _PAUSE_SECONDS)
        except AssertionError as error:
            told = json.dumps(self.status(), indent=1)
            raise AssertionError(f"{error}; the status is\n{told}") from None

    def wait_for(self, kind: str, status: str = "True", reason: str | None = None) -> str:
        """Until a condition of the present generation is so; its message."""
        found: Object = {}

        def holds() -> bool:
            nonlocal found
            now = self.get()
            conditions = now.get("status", {}).get("conditions", ())
            found = next((c for c in conditions if c["type"] == kind), {})
            return (
                found.get("status") == status
                and found["observedGeneration"] == now["metadata"]["generation"]
                and reason in (None, found["reason"])
            )

        self.wait(holds, f"{kind} is {status}" + (f" because {reason}" if reason else ""))
        return str(found["message"])

    def wait_observed(self) -> Object:
        """Until the status is of the present spec; the status."""

        def holds() -> bool:
            now = self.get()
            generation: int = now["metadata"]["generation"]
            return bool(now.get("status", {}).get("observedGeneration") == generation)

        self.wait(holds, "the operator has looked at the present spec")
        return self.status()

    def settle(self) -> None:
        """Its pods become ready, former ones end, until all is as the spec says."""

        def holds() -> bool:
            play_kubelet(self.client, self.namespace, f"{FLEET_LABEL}={self.name}")
            now = self.get()
            conditions = now.get("status", {}).get("conditions", ())
            return any(
                c["type"] == "UpToDate"
                and c["status"] == "True"
                and c["observedGeneration"] == now["metadata"]["generation"]
                for c in conditions
            )

        self.wait(holds, "the fleet is up to date")
