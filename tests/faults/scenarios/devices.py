"""Devices are scarce: all of them are taken when the fleet changes. They are numbers in the status
of nodes; the scheduler counts them like real ones."""

from typing import Final

from tests.apiserver_client import Object
from tests.cluster.cluster import Cluster
from tests.faults.scenarios.rollouts import rolled_out
from tests.faults.stage import Stage

__all__ = ["RESOURCE", "all_taken", "give_devices", "more_per_pod", "too_many_per_pod"]

RESOURCE: Final = "example.com/gpu"
_PER_NODE: Final = 2


def all_taken(stage: Stage) -> str:
    """A rolling update when every device is taken."""
    taken = _taken(stage)
    return f"{taken}; {rolled_out(stage, engine={'sim': {'jitter': 0.05}})}"


def more_per_pod(stage: Stage) -> str:
    """Half as many replicas with two devices each, when every device is taken."""
    taken = _taken(stage)
    told = rolled_out(stage, tensorParallelSize=2, gpu={"count": 2}, replicas=2)
    return f"{taken}; tensorParallelSize 1 → 2, replicas 4 → 2: {told}"


def too_many_per_pod(stage: Stage) -> str:
    """More devices a replica than any node has; later the former number again."""
    count = _PER_NODE + 2
    before = stage.spec
    stage.strike()
    stage.change(tensorParallelSize=count, gpu={"count": count})
    told: Object = {}

    def is_told() -> bool:
        told.update(stage.condition("UpToDate"))
        return told.get("reason") == "Unschedulable"

    stage.wait(is_told, "the status says that it cannot be scheduled")
    stage.spec = before
    stage.apply()
    stage.wait_recovered()
    stage.fleet.wait_up_to_date()
    return f"UpToDate=False, {told['reason']}: {told['message']}; UpToDate after the way back"


def give_devices(cluster: Cluster) -> None:
    """Every node says that it has some."""
    for name in cluster.node_names:
        status = {"capacity": {RESOURCE: str(_PER_NODE)}}
        cluster.client.patch(f"/api/v1/nodes/{name}/status", {"status": status})


def _taken(stage: Stage) -> str:
    total = _PER_NODE * len(stage.cluster.node_names)
    asked = sum(
        int(container["resources"].get("requests", {}).get(RESOURCE, 0))
        for pod in stage.pods.ready
        for container in pod["spec"]["containers"]
    )
    assert asked == total, f"{asked} of {total} devices are taken"
    return f"{asked} of {total} {RESOURCE} taken"
