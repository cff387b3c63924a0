"""Writes that fail: what is told, when they are tried again, and what goes on meanwhile."""

from datetime import timedelta

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    FakeCluster,
    replica_pod,
)
from tests.reconciler_world import (
    ADAPTERS,
    BUDGET,
    FIVE,
    Start,
    conditions,
    fails,
)

from sampler_operator.errors import (
    ClusterError,
    Denied,
    Missing,
    NamespaceGoing,
    Refused,
    Unavailable,
)


async def test_a_cluster_that_is_away_is_told_and_tried_again(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    cluster.fault = fails("apply Service fleet", Unavailable("overloaded"))
    with pytest.raises(Unavailable, match="overloaded"):
        await operator.act()
    assert "status" in cluster.writes
    assert len(FIVE & set(cluster.writes)) == 4
    cluster.fault = lambda write: None
    assert "apply Service fleet" in await operator.written()


async def test_what_goes_as_often_as_it_is_made_is_made_once_a_second(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    made = []
    for _ in range(8):
        if ADAPTERS in cluster.objects:
            cluster.remove(ADAPTERS)
        made.append(f"apply {ADAPTERS.kind} {ADAPTERS.name}" in await operator.written())
        operator.clock.now += timedelta(seconds=0.25)
    assert made == [True, False, False, False, True, False, False, False]


REFUSALS: dict[str, ClusterError] = {
    "refused": Refused("Deployment fleet: spec.template.spec.x: Invalid value"),
    "denied": Denied("User cannot patch resource deployments"),
    "missing": Missing("Deployment fleet: the cluster has no Deployment"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS.keys())
async def test_what_is_refused_is_told_and_looked_at_again(
    cluster: FakeCluster, start: Start, error: ClusterError
) -> None:
    operator = start()
    cluster.fault = fails("apply Deployment fleet", error)
    assert await operator.act() == 10.0
    assert conditions(cluster)["Accepted"][0] == "False"
    assert conditions(cluster)["Stalled"][0] == "True"
    cluster.fault = lambda write: None
    operator.clock.now += timedelta(seconds=10)
    assert await operator.written() == ["apply Deployment fleet", "status"]
    assert conditions(cluster)["Accepted"][0] == "True"


async def test_a_refused_child_is_tried_ever_more_seldom(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    cluster.fault = fails("apply Deployment fleet", Refused("exceeded quota"))
    waits = []
    for _ in range(8):
        wait = await operator.act()
        assert wait is not None
        waits.append(wait)
        operator.clock.now += timedelta(seconds=wait)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


async def test_a_refused_child_is_tried_once_whatever_else_happens(
    cluster: FakeCluster, start: Start
) -> None:
    operator, tried = start(), []

    def fault(write: str) -> None:
        if write == "apply Deployment fleet":
            tried.append(operator.clock.monotonic())
            raise Refused("Deployment fleet: exceeded quota", "403")

    cluster.fault = fault
    assert await operator.act() == 10.0
    for number in range(50):
        operator.clock.now += timedelta(seconds=0.1)
        cluster.put_pod(replica_pod(life=f"c{number}", is_ready=False))
        await operator.act()
    assert tried == [0.0]
    assert conditions(cluster)["Accepted"] == ("False", "ChildRefused")
    # Another manifest is tried at once, and waits for itself.
    cluster.put_sd(fleet({"replicas": 2}, generation=2))
    assert await operator.act() == 10.0
    assert tried == [0.0, 5.0]
    # One that is not wanted at another generation is not tried for it.
    cluster.put_sd(fleet({"replicas": 2, "disruptionBudget": {"enabled": False}}, generation=3))
    assert await operator.written() == [f"delete {BUDGET}", "status"]
    assert tried == [0.0, 5.0]
    operator.clock.now += timedelta(seconds=10)
    assert await operator.act() == 20.0
    assert tried == [0.0, 5.0, 15.0]


async def test_only_what_was_written_is_told_as_applied(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    cluster.fault = fails("apply Service fleet", Unavailable("overloaded"))
    with pytest.raises(Unavailable):
        await operator.act()
    [applied] = [event for event in cluster.events if event.reason == "Applied"]
    assert "create Deployment fleet: it does not exist" in applied.message
    assert "Service fleet:" not in applied.message
    cluster.fault = lambda write: None
    operator.clock.now += timedelta(seconds=1)
    await operator.act()
    assert [e.message for e in cluster.events if e.reason == "Applied"][1:] == [
        "create Service fleet: it does not exist"
    ]


async def test_a_child_that_is_to_wait_is_not_told_as_applied(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    for _ in range(2):
        cluster.remove(ADAPTERS)
        await operator.act()
    applied = [event.message for event in cluster.events if event.reason == "Applied"]
    assert applied[1:] == ["create ConfigMap fleet-adapters: it does not exist"]


async def test_once_less_is_refused_the_wait_begins_anew(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()

    def fault(write: str) -> None:
        if write in refused:
            raise Refused("exceeded quota")

    cluster.fault, refused = fault, ["apply Deployment fleet", "apply Service fleet"]
    for wait in (10.0, 20.0, 40.0):
        assert await operator.act() == wait
        operator.clock.now += timedelta(seconds=wait)
    refused.pop()
    assert await operator.act() == 10.0


async def test_nothing_more_is_written_into_a_namespace_that_is_being_deleted(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    cluster.fault = fails("apply ConfigMap fleet-adapters", NamespaceGoing("it is terminated"))
    assert await operator.act() is None
    assert "status" not in cluster.writes
    cluster.fault = lambda write: None
    cluster.put_sd(fleet({"replicas": 3}, generation=2))
    assert await operator.written() == []
    another = fleet()
    another["metadata"]["uid"] = "another"
    cluster.put_sd(another)
    assert "apply ConfigMap fleet-adapters" in await operator.written()


async def test_a_refused_change_does_not_hold_up_the_others(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.fault = fails("apply Deployment fleet", Refused("no"))
    await start().act()
    assert FIVE - {"apply Deployment fleet"} <= set(cluster.writes)


async def test_a_child_that_cannot_be_deleted_is_told_and_tried_again(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    cluster.put_sd(fleet({"disruptionBudget": {"enabled": False}}, generation=2))
    cluster.fault = fails(f"delete {BUDGET}", Denied("User cannot delete resource"))
    assert await operator.act() == 10.0
    assert conditions(cluster)["Accepted"] == ("False", "Forbidden")
    cluster.fault = lambda write: None
    operator.clock.now += timedelta(seconds=10)
    assert await operator.written() == [f"delete {BUDGET}", "status"]


async def test_a_status_that_cannot_be_written_is_an_error(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.fault = fails("status", Unavailable("away"))
    with pytest.raises(Unavailable):
        await start().act()
