"""A node is drained, or lost."""

from tests.apiserver_client import Object
from tests.faults.scenarios.replicas import left
from tests.faults.stage import Stage

__all__ = ["drained", "lost"]


def drained(stage: Stage) -> str:
    """`kubectl drain`, of a node with most of the work."""
    node = stage.busiest()["spec"]["nodeName"]
    pods = _pods_on(stage, node)
    stage.strike(*pods)
    words = ("--delete-emptydir-data", f"--pod-selector=sampler.dev/fleet={stage.name}")
    try:
        told = stage.kubectl("drain", node, *words, "--timeout=120s", seconds=130)
        observed = left(stage, pods)
    finally:
        stage.kubectl("uncordon", node)
    return f"{told.strip().splitlines()[-1]}; {observed}"


def lost(stage: Stage) -> str:
    """The power of node 1 goes; the node comes back later."""
    node = stage.cluster.node_names[1]
    pods = _pods_on(stage, node)
    assert pods, f"no replica is on {node}"
    stage.strike(*pods)
    stage.cluster.node_kill(1)
    path = f"/api/v1/nodes/{node}"

    def is_missed() -> bool:
        conditions = stage.cluster.client.get(path)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "Unknown" for each in conditions)

    try:
        stage.wait(is_missed, f"{node} is missed")
        stage.wait_recovered()
    finally:
        stage.cluster.node_start(1)
    return f"Ready of {node} Unknown, {len(pods)} of its pods replaced on other nodes"


def _pods_on(stage: Stage, node: str) -> list[Object]:
    return [pod for pod in stage.pods.ready if pod["spec"]["nodeName"] == node]
