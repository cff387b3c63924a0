"""Where objects of each kind live in the API. A table, so that nothing has to be discovered."""

from typing import Final, NamedTuple

from .. import names

__all__ = ["CHILDREN", "CLAIMS", "PODS", "SAMPLER_DEPLOYMENTS", "Resource", "path_of"]


class Resource(NamedTuple):
    """A namespaced kind."""

    group: str
    version: str
    plural: str

    @property
    def api(self) -> str:
        """The path of its group."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str) -> str:
        """The path of a namespace's list; of all namespaces, if it is empty."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.api}{scope}/{self.plural}"


SAMPLER_DEPLOYMENTS: Final = Resource(names.GROUP, names.VERSION, names.PLURAL)
PODS: Final = Resource("", "v1", "pods")
CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims")

CHILDREN: Final = {
    "ConfigMap": Resource("", "v1", "configmaps"),
    "Deployment": Resource("apps", "v1", "deployments"),
    "NetworkPolicy": Resource("networking.k8s.io", "v1", "networkpolicies"),
    "PodDisruptionBudget": Resource("policy", "v1", "poddisruptionbudgets"),
    "PodMonitor": Resource("monitoring.coreos.com", "v1", "podmonitors"),
    "Service": Resource("", "v1", "services"),
}
"""Every kind of child."""


def path_of(resource: Resource, namespace: str, name: str = "") -> str:
    """The path of an object, or of a namespace's list."""
    return f"{resource.path(namespace)}/{name}" if name else resource.path(namespace)
