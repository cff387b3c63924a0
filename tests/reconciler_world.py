"""What tests of passes share: refs, a fleet with an adapter, faults of writes, what is told."""

from collections.abc import Callable

from tests.kube_objects import ago
from tests.operator_fakes import (
    FakeCluster,
    Operator,
    replica_pod,
)
from tests.spec_cases import VOLUME, adapter

from sampler_api.fleet import AdaptersConfig, AdapterState, DeclaredAdapter, ReplicaStatus
from sampler_operator.errors import (
    ClusterError,
)
from sampler_operator.names import Ref
from sampler_operator.objects import Manifest

__all__ = [
    "ADAPTERS",
    "BUDGET",
    "DEPLOYMENT",
    "DIGEST",
    "FIVE",
    "HASH",
    "HOLDS",
    "HTTP",
    "STARTS",
    "WITH_ADAPTER",
    "Start",
    "conditions",
    "creating",
    "fails",
    "serving",
]

DEPLOYMENT, BUDGET = Ref("Deployment", "fleet"), Ref("PodDisruptionBudget", "fleet")
ADAPTERS, HTTP = Ref("ConfigMap", "fleet-adapters"), Ref("Service", "fleet")
FIVE = {
    "apply ConfigMap fleet-adapters",
    "apply Service fleet",
    "apply Service fleet-replicas",
    "apply PodDisruptionBudget fleet",
    "apply Deployment fleet",
}
WITH_ADAPTER: Manifest = {"lora": {"volumes": [VOLUME], "adapters": [adapter("one")]}}
DIGEST = "sha256:" + "a" * 64
HASH = AdaptersConfig((DeclaredAdapter("one", "/adapters/one"),)).declared_hash
HOLDS = ReplicaStatus(
    True, "i", adapters_hash=HASH, declared=(AdapterState("one", "held", DIGEST),), held=(DIGEST,)
)
STARTS = ReplicaStatus(False, "i")

Start = Callable[..., Operator]
"""Starts an operator on the cluster of the test."""


def conditions(cluster: FakeCluster) -> dict[str, tuple[str, str]]:
    assert cluster.sd is not None
    found = cluster.sd["status"]["conditions"]
    return {c["type"]: (c["status"], c["reason"]) for c in found}


def fails(write: str, error: ClusterError) -> Callable[[str], None]:
    """A fault of one write."""

    def fault(given: str) -> None:
        if given == write:
            raise error

    return fault


def serving(cluster: FakeCluster, *pods: str) -> None:
    """The pods are there and ready, and the Deployment says so."""
    n = len(pods)
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    cluster.change(DEPLOYMENT, {"status": dict.fromkeys(counts, n)})
    for name in pods:
        cluster.put_pod(replica_pod(name))


def creating(age: float, name: str = "p1") -> Manifest:
    """A pod whose container is being created, for ``age`` seconds."""
    pod = replica_pod(name, is_ready=False)
    pod["metadata"]["creationTimestamp"] = ago(age)
    state = {"name": "server", "state": {"waiting": {"reason": "ContainerCreating"}}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [state]}
    return pod
