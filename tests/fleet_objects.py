"""What an operator has made in a namespace, in a form that can be compared between namespaces."""

import json
from collections.abc import Iterator
from typing import Any, Final

from tests.apiserver_client import KubeClient, Object
from tests.installed_crd import sampler_path
from tests.live_fleet import LiveFleet

from sampler_operator.kube.resources import CHILDREN, Resource, path_of
from sampler_operator.names import DIGEST, FLEET_LABEL, TEMPLATE_DIGEST

__all__ = [
    "assert_untouched",
    "child_uids",
    "children",
    "conditions",
    "history",
    "outcome",
    "replica_sets",
]

_REPLICA_SETS: Final = Resource("apps", "v1", "replicasets")
_INSTALLED: Final = {kind: where for kind, where in CHILDREN.items() if kind != "PodMonitor"}
# What the API server adds, and digests over names of the namespace and uids.
_OF_THIS_ONE: Final = ("creationTimestamp", "managedFields", "namespace", "resourceVersion", "uid")
_ADDRESSES: Final = ("clusterIP", "clusterIPs")


def children(client: KubeClient, namespace: str) -> dict[str, Object]:
    """All objects that carry a fleet's label, by kind and name, without what differs between two
    namespaces in which the same has happened."""
    return {
        f"{kind} {each['metadata']['name']}": _comparable(each, namespace)
        for kind, resource in _INSTALLED.items()
        for each in client.items(path_of(resource, namespace), labelSelector=FLEET_LABEL)
    }


def replica_sets(client: KubeClient, namespace: str) -> dict[str, Object]:
    """Each stands for a pod template that was rolled out."""
    found = client.items(path_of(_REPLICA_SETS, namespace), labelSelector=FLEET_LABEL)
    return {each["metadata"]["name"]: each for each in found}


def conditions(sd: Object) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    found = sd.get("status", {}).get("conditions", [])
    return {each["type"]: (each["status"], each["reason"]) for each in found}


def child_uids(fleet: LiveFleet) -> dict[str, str]:
    """Of the children that every fleet has. Who has others was made again."""
    kinds = ("ConfigMap", "Deployment", "Discovery", "PodDisruptionBudget", "Service")
    return {kind: fleet.child(kind)["metadata"]["uid"] for kind in kinds}


def outcome(client: KubeClient, namespace: str, name: str) -> Object:
    """Everything that a SamplerDeployment has led to."""
    sd = client.get(sampler_path(namespace, name))
    counted = {field: part for field, part in sd["status"].items() if field != "conditions"}
    return {
        "children": children(client, namespace),
        "replica sets": len(replica_sets(client, namespace)),
        "status": counted | {"conditions": conditions(sd)},
    }


def history(client: KubeClient, namespace: str, name: str, since: str) -> Iterator[Object]:
    """Every state of a SamplerDeployment after the resource version ``since``."""
    watched = {
        "watch": "true",
        "fieldSelector": f"metadata.name={name}",
        "timeoutSeconds": "1",
    }
    while "object" in (
        event := client.get(sampler_path(namespace), resourceVersion=since, **watched)
    ):
        state = event["object"]
        since = state["metadata"]["resourceVersion"]
        yield state


def assert_untouched(sd: Object) -> None:
    """The operator has written nothing but the status, and nothing holds up a deletion."""
    assert "finalizers" not in sd["metadata"]
    assert "annotations" not in sd["metadata"]
    for entry in sd["metadata"].get("managedFields", []):
        assert entry.get("subresource") == "status" or entry["manager"] != "sampler-operator"


def _comparable(obj: Object, namespace: str) -> Object:
    (owner,) = obj["metadata"]["ownerReferences"]
    text = json.dumps(obj).replace(namespace, "NAMESPACE").replace(owner["uid"], "UID")
    made: dict[str, Any] = json.loads(text)
    made.pop("status", None)
    for field in _OF_THIS_ONE:
        made["metadata"].pop(field, None)
    for field in _ADDRESSES:
        made.get("spec", {}).pop(field, None)
    for digest in (DIGEST, TEMPLATE_DIGEST):
        made["metadata"]["annotations"].pop(digest, None)
    return made
