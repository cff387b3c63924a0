"""The kind PodMonitor of the Prometheus operator in an API server of tests, without its schema."""

from typing import Any, Final

from tests.apiserver import ApiServer
from tests.apiserver_client import RefusedError
from tests.proxy import wait_until

__all__ = ["install_pod_monitors", "remove_pod_monitors"]

_NAME: Final = "podmonitors.monitoring.coreos.com"
_PATH: Final = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{_NAME}"
_LIST: Final = "/apis/monitoring.coreos.com/v1/namespaces/default/podmonitors"
_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_CRD: Final[dict[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": _NAME},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {
            "kind": "PodMonitor",
            "listKind": "PodMonitorList",
            "plural": "podmonitors",
            "singular": "podmonitor",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "properties": {"spec": _ANYTHING}}
                },
            }
        ],
    },
}


def install_pod_monitors(server: ApiServer) -> None:
    """Returns when its objects can be made."""
    server.client.apply(_PATH, _CRD)

    def is_served() -> bool:
        try:
            return server.client.items(_LIST) == []
        except RefusedError as refused:
            if refused.code not in (404, 429):
                raise
            return False

    wait_until(is_served, "the API server serves PodMonitors")


def remove_pod_monitors(server: ApiServer) -> None:
    """Returns when the kind is unknown again; nothing if it is."""
    if server.client.exists(_PATH):
        server.client.delete(_PATH)
        wait_until(lambda: not server.client.exists(_PATH), "PodMonitors are unknown again")
