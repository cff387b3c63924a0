"""Children come and go with the spec, and with the kinds that a cluster has."""

from collections.abc import Iterator

import pytest
from tests.apiserver import ApiServer
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.pod_monitors import install_pod_monitors, remove_pod_monitors

pytestmark = pytest.mark.long


def test_children_come_and_go_with_the_spec(fleet: LiveFleet) -> None:
    fleet.change({"disruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}})
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        fleet.wait(lambda kind=kind: not fleet.has_child(kind), f"{kind} has gone")  # type: ignore[misc]
    fleet.settle()
    fleet.change({"disruptionBudget": {"enabled": True}, "networkPolicy": {"enabled": True}})
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        fleet.wait(lambda kind=kind: fleet.has_child(kind), f"{kind} is there again")  # type: ignore[misc]
    fleet.settle()
    assert len(fleet.replica_sets()) == 1


def test_the_strategy_changes_to_and_fro(fleet: LiveFleet) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert fleet.child("Deployment")["spec"]["strategy"] == rolling
    fleet.change({"rollout": {"strategy": "Recreate"}})
    fleet.settle()
    assert fleet.child("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    fleet.change({"rollout": {"strategy": "RollingUpdate", "maxSurge": "50%"}})
    fleet.settle()
    mixed = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 1}}
    assert fleet.child("Deployment")["spec"]["strategy"] == mixed
    assert len(fleet.replica_sets()) == 1


@pytest.fixture
def without_pod_monitors(api_server: ApiServer) -> Iterator[None]:
    """A test may install the kind; it is taken away after it."""
    remove_pod_monitors(api_server)
    yield
    remove_pod_monitors(api_server)


@pytest.mark.usefixtures("without_pod_monitors")
def test_a_pod_monitor_waits_for_its_kind(fleet: LiveFleet) -> None:
    fleet.change({"monitoring": {"podMonitor": {"labels": {"release": "p"}}}, "replicas": 3})
    told = fleet.wait_for("Accepted", "False", "MissingKind")
    assert told.startswith("PodMonitor fleet: the cluster has no PodMonitor")
    # All else goes on.
    fleet.wait(lambda: fleet.child("Deployment")["spec"]["replicas"] == 3, "the fleet is scaled")
    install_pod_monitors(fleet.server)
    fleet.wait_for("Accepted")
    fleet.settle()
    spec = fleet.child("PodMonitor")["spec"]
    assert spec["podMetricsEndpoints"] == [
        {"port": "manage", "path": "/metrics", "interval": "15s"}
    ]
    fleet.client.delete(fleet.child_path("PodMonitor"))
    fleet.wait(lambda: fleet.has_child("PodMonitor"), "the PodMonitor is there again")
    fleet.change({"monitoring": {"podMonitor": None}})
    fleet.wait(lambda: not fleet.has_child("PodMonitor"), "the PodMonitor has gone")
    fleet.settle()


@pytest.mark.usefixtures("without_pod_monitors")
def test_the_kind_of_pod_monitors_may_be_taken_away(
    fleet: LiveFleet, operator: OperatorProcess
) -> None:
    fleet.change({"monitoring": {"podMonitor": {}}})
    for replicas in (3, 2, 3, 2):
        install_pod_monitors(fleet.server)
        fleet.wait(lambda: fleet.client.exists(fleet.child_path("PodMonitor")), "it has a monitor")
        remove_pod_monitors(fleet.server)
        # The operator goes on, whether or not its watch was told in time.
        fleet.change({"replicas": replicas, "monitoring": {"podMonitor": None}})
        fleet.settle()
        fleet.change({"monitoring": {"podMonitor": {}}})
    assert operator.is_running
