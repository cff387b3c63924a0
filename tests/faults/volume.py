"""The volume to which replicas write their ledgers: it outlives pods and nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.apiserver_client import KubeClient

__all__ = ["CLAIM", "LEDGERS_AT", "make_claim", "with_ledgers"]

LEDGERS_AT: Final = "/ledgers"
CLAIM: Final = "ledgers"


def make_claim(client: KubeClient, namespace: str, folder: Path) -> None:
    """A claim on ``folder`` of this machine, which is the same on every node."""
    folder.mkdir(parents=True)
    # Replicas are of no user of this machine.
    folder.chmod(0o777)
    common: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    name = f"{CLAIM}-{namespace}"
    volume = {
        **common,
        "capacity": size,
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": namespace, "name": CLAIM},
    }
    client.post("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": volume})
    claim = {**common, "resources": {"requests": size}, "volumeName": name}
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    client.post(path, {"metadata": {"name": CLAIM}, "spec": claim})


def with_ledgers(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec whose pods mount the claim, beside the volumes that it overrides itself."""
    mount = {"name": CLAIM, "mountPath": LEDGERS_AT}
    own = spec.get("podTemplateOverrides", {}).get("spec", {}).get("volumes", [])
    pod = {
        "volumes": [*own, {"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
        "containers": [{"name": "server", "volumeMounts": [mount]}],
    }
    return {**spec, "podTemplateOverrides": {"spec": pod}}
