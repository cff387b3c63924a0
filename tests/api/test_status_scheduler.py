"""Pods that find no node, devices or volume: the fleet's status says what to do."""

import re
from typing import Any, Final

import pytest
from tests.apiserver import ApiServer
from tests.live_fleet import LiveFleet
from tests.shown_status import check_told, told

pytestmark = pytest.mark.usefixtures("operator")

UNPLACED: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "no node has the label": (
        {"nodeSelector": {"example.com/pool": "none"}},
        "Unschedulable",
        r"0 of 1 replicas ready; replica POD: 0/\d+ nodes are available: \d+ node\(s\) didn't match"
        r" Pod's node affinity/selector; see spec.nodeSelector and spec.affinity",
    ),
    "no node has so much memory": (
        {"resources": {"requests": {"memory": "100Ti"}}},
        "Unschedulable",
        r"0 of 1 replicas ready; replica POD: 0/\d+ nodes are available: \d+ Insufficient memory;"
        " see spec.resources.requests",
    ),
    "no node has so many devices": (
        {"tensorParallelSize": 16, "gpu": {"count": 16}},
        "Unschedulable",
        "0 of 1 replicas ready; replica POD: needs 16 nvidia.com/gpu on one node, but no node has"
        " more than 8; lower tensorParallelSize or add larger nodes",
    ),
    "no node has such a device": (
        {"gpu": {"count": 1, "resourceName": "example.com/tpu"}},
        "Unschedulable",
        "0 of 1 replicas ready; replica POD: needs 1 example.com/tpu on one node, but no node has"
        " any; add such nodes, or install their device plugin",
    ),
    "a claim is missing": (
        {
            "lora": {
                "volumes": [
                    {
                        "name": "runs",
                        "mountPath": "/runs",
                        "persistentVolumeClaim": {"claimName": "runs"},
                    }
                ]
            }
        },
        "VolumeUnbound",
        "0 of 1 replicas ready; replica POD: PersistentVolumeClaim runs does not exist; create it"
        r" in namespace test-\d+",
    ),
}


@pytest.mark.parametrize(("spec", "reason", "message"), UNPLACED.values(), ids=UNPLACED.keys())
def test_what_the_scheduler_says_is_told(
    fleet: LiveFleet, spec: dict[str, Any], reason: str, message: str
) -> None:
    fleet.create(spec)
    check_told(fleet, reason, message)


def test_a_claim_that_nobody_gives_a_volume_is_told(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/persistentvolumeclaims"
    asked = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    fleet.client.post(path, {"metadata": {"name": "runs"}, "spec": asked})
    source = {"persistentVolumeClaim": {"claimName": "runs"}}
    fleet.create({"lora": {"volumes": [{"name": "runs", "mountPath": "/runs", **source}]}})
    check_told(
        fleet,
        "VolumeUnbound",
        "0 of 1 replicas ready; replica POD: a PersistentVolumeClaim has no volume yet; give it a"
        " storageClassName if the cluster has no default StorageClass, see kubectl describe pvc in"
        rf" namespace {fleet.namespace} \(.*pod has unbound immediate PersistentVolumeClaims.*\)",
    )


@pytest.fixture
def device(api_server: ApiServer, nodes: tuple[str, ...], namespace: str) -> str:
    """A kind of devices of the test's own, 8 on each node: the operator remembers for a while how
    many of a kind are free."""
    name = f"example.com/{namespace}"
    for node in nodes:
        amounts = {"capacity": {name: "8"}, "allocatable": {name: "8"}}
        api_server.client.patch(f"/api/v1/nodes/{node}/status", {"status": amounts})
    return name


def devices(name: str, count: int, **more: Any) -> dict[str, Any]:
    """A spec of pods with so many devices each."""
    return {"tensorParallelSize": count, "gpu": {"count": count, "resourceName": name}, **more}


def test_a_rollout_waits_for_devices_of_its_own_pods(fleet: LiveFleet, device: str) -> None:
    fleet.create(devices(device, 8, replicas=2, rollout={"maxUnavailable": 2}))
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    check_told(
        fleet,
        "Pending",
        f"0 of 2 replicas ready; replica POD: needs 8 {device} on one node, largest free is 0;"
        r" waits for 2 of this fleet's pods that are leaving \(1 more alike\)",
    )
    assert fleet.condition("Stalled")["status"] == "False"
    fleet.settle()


def test_a_rollout_that_its_own_pods_block_says_what_to_change(
    fleet: LiveFleet, device: str
) -> None:
    surge = {"maxSurge": 1, "maxUnavailable": 0}
    fleet.create(devices(device, 8, replicas=2, rollout=surge))
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    said = fleet.wait_for("Stalled", "True", "Unschedulable")
    assert re.fullmatch(
        rf"replica fleet-\S+: needs 8 {device} on one node, largest free is 0, because this"
        r" fleet's own old pods hold them; raise rollout.maxUnavailable or use rollout.strategy"
        r" Recreate",
        said,
    ), said
    # The old pods serve on.
    assert told(fleet) == ("Serving", "2 of 2 replicas ready")
    assert fleet.condition("UpToDate")["reason"] == "Unschedulable"
    fleet.change({"rollout": {"strategy": "Recreate"}})
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_a_fleet_that_others_leave_no_devices_says_how_many_are_free(
    fleet: LiveFleet, api_server: ApiServer, device: str
) -> None:
    other = LiveFleet(api_server, fleet.namespace, "other")
    other.create(devices(device, 4, replicas=4))
    other.settle()
    fleet.create(devices(device, 8))
    check_told(
        fleet,
        "Unschedulable",
        f"0 of 1 replicas ready; replica POD: needs 8 {device} on one node, largest free is 0;"
        " free some, add nodes or lower replicas",
    )
    other.change({"replicas": 0})
    other.settle()
    fleet.settle()


def test_a_claim_of_one_node_that_several_replicas_want_is_told(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/persistentvolumeclaims"
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"metadata": {"name": "models"}, "spec": asked}
    fleet.client.post(path, claim)
    cache = {"volume": {"persistentVolumeClaim": {"claimName": "models"}}}
    model = {"uri": "hf://a/b", "cache": cache}
    fleet.create({"model": model, "engine": {"sim": None, "torch": {}}, "replicas": 2})
    fleet.wait(lambda: fleet.condition("VolumesShareable"), "the claim is told")
    found = fleet.condition("VolumesShareable")
    assert (found["status"], found["reason"]) == ("False", "ClaimOfOneNode")
    assert "spec.model.cache.volume: claim models is ReadWriteOnce" in found["message"]
    fleet.change({"replicas": 1})
    fleet.wait(lambda: not fleet.condition("VolumesShareable"), "one replica shares with nobody")
