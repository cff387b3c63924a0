"""Passes over one SamplerDeployment: what is written, and what is not."""

from datetime import timedelta

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    KEY,
    SETTINGS,
    FakeCluster,
    FakeReplicas,
    replica_pod,
    until,
)
from tests.reconciler_world import (
    DEPLOYMENT,
    FIVE,
    HTTP,
    Start,
    conditions,
)

from sampler_operator.objects import Manifest
from sampler_operator.plan import BuildSettings


async def test_a_first_pass_writes_five_children_and_then_the_status(start: Start) -> None:
    writes = await start().written()
    assert set(writes[:-1]) == FIVE
    assert len(writes) == 6
    assert writes[-1] == "status"


async def test_a_second_pass_writes_nothing(start: Start) -> None:
    operator = start()
    await operator.act()
    assert await operator.written() == []


async def test_a_second_pass_writes_nothing_though_the_watches_lag(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.is_lagging = True
    operator = start()
    await operator.act()
    assert await operator.written() == []
    cluster.deliver()
    assert await operator.written() == []


async def test_a_new_operator_writes_nothing(start: Start) -> None:
    await start().act()
    assert await start().written() == []


async def test_a_new_operator_with_other_images_writes_nothing(start: Start) -> None:
    await start().act()
    newer = BuildSettings({kind: f"acme/{kind}:2" for kind in SETTINGS.images})
    assert await start(newer).written() == []


async def test_what_is_done_is_counted(start: Start) -> None:
    operator = start()
    await operator.act()
    assert operator.metrics.states == {KEY: "progressing"}


CHANGES: dict[str, tuple[Manifest, list[str]]] = {
    "a scale writes the Deployment": ({"replicas": 2}, ["apply Deployment fleet"]),
    "a pause writes the Deployment": ({"paused": True}, ["apply Deployment fleet"]),
    "an unwanted budget is deleted": (
        {"disruptionBudget": {"enabled": False}},
        ["delete PodDisruptionBudget fleet"],
    ),
    "a policy is made": ({"networkPolicy": {"enabled": True}}, ["apply NetworkPolicy fleet"]),
}


@pytest.mark.parametrize(("change", "writes"), CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_writes_what_differs(
    cluster: FakeCluster, start: Start, change: Manifest, writes: list[str]
) -> None:
    operator = start()
    await operator.act()
    cluster.put_sd(fleet(change, generation=2))
    assert await operator.written() == [*writes, "status"]
    assert await operator.written() == []


async def test_a_paused_fleet_is_scaled_and_told(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    cluster.put_sd(fleet({"paused": True, "replicas": 3}))
    await operator.act()
    spec = cluster.objects[DEPLOYMENT]["spec"]
    assert (spec["paused"], spec["replicas"]) == (True, 3)


# What others do


async def test_what_others_change_is_set_right_and_what_they_add_stays(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    cluster.change(DEPLOYMENT, {"spec": {"replicas": 9}, "metadata": {"labels": {"team": "a"}}})
    assert await operator.written() == ["apply Deployment fleet"]
    deployment = cluster.objects[DEPLOYMENT]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["metadata"]["labels"]["team"] == "a"
    assert await operator.written() == []


async def test_what_others_delete_is_made_again(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    await operator.act()
    cluster.remove(HTTP)
    assert await operator.written() == ["apply Service fleet"]


async def test_what_belongs_to_others_is_left_alone_and_told(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    [owner] = cluster.objects[HTTP]["metadata"]["ownerReferences"]
    cluster.remove(HTTP)
    theirs = {"uid": "other", "kind": owner["kind"], "controller": True}
    cluster.objects[HTTP] = {
        "kind": "Service",
        "metadata": {"name": "fleet", "uid": "u", "ownerReferences": [theirs]},
    }
    operator.clock.now += timedelta(seconds=2)
    assert await operator.written() == ["apply Service fleet", "status"]
    assert cluster.objects[HTTP]["metadata"]["ownerReferences"] == [theirs]
    assert conditions(cluster)["Accepted"][0] == "False"


async def test_a_fleet_that_is_being_deleted_is_left_alone(
    cluster: FakeCluster, start: Start
) -> None:
    leaving = fleet()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-26T12:00:00Z"
    cluster.put_sd(leaving)
    assert await start().written() == []


async def test_a_fleet_that_is_gone_is_forgotten(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    operator = start()
    await operator.act()
    cluster.put_pod(replica_pod(is_ready=False))
    await operator.act()
    await until(lambda: replicas.asked)
    cluster.delete_sd()
    assert await operator.act() is None
    assert operator.metrics.states == {}
    assert not operator.reporter.reports(KEY, ())


async def test_a_spec_that_cannot_be_meant_changes_nothing_but_the_status(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    cluster.put_sd(fleet({"tensorParallelSize": 2, "enginesPerGPU": 2}, generation=2))
    assert await operator.written() == ["status"]
    assert conditions(cluster)["Accepted"] == ("False", "InvalidSpec")
    assert cluster.sd is not None
    assert cluster.sd["status"]["observedGeneration"] == 2
    assert await operator.written() == []
