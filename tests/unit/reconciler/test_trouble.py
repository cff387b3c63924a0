"""What a pass asks the cluster for when pods do not start, and how often."""

import asyncio
from datetime import timedelta

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    KEY,
    FakeCluster,
)
from tests.reconciler_world import (
    Start,
    conditions,
    creating,
)

from sampler_operator.errors import (
    Denied,
)
from sampler_operator.gathering import Gathering
from sampler_operator.objects import Manifest
from sampler_operator.ports import DeviceRoom, Event
from sampler_operator.spec.parse import parse


async def test_events_are_read_only_of_pods_that_are_created_for_long(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    cluster.put_pod(creating(age=5))
    again = await operator.act()
    assert cluster.reads == []
    assert again == 15.5

    cluster.warnings = [Event("Warning", "FailedMount", 'secret "tokens" not found')]
    operator.clock.now += timedelta(seconds=again)
    assert await operator.act() == 10.0
    assert cluster.reads == ["warnings uid-p1"]
    assert conditions(cluster)["Ready"][1] == "MountFailed"


async def test_of_many_pods_that_do_not_start_events_of_three_are_read_together(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    for age in range(60, 70):
        cluster.put_pod(creating(age, f"p{age}"))
    cluster.together = asyncio.Barrier(3)
    async with asyncio.timeout(5):
        await operator.act()
    assert sorted(cluster.reads) == [f"warnings uid-p{age}" for age in (60, 61, 62)]


async def test_events_that_cannot_be_read_are_asked_for_again(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.put_pod(creating(age=60))
    cluster.warnings = Denied("User cannot list resource events")
    assert await start().act() == 10.0


def without_room() -> Manifest:
    pod = creating(age=5)
    pod["spec"] = {}
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    scheduled = {"type": "PodScheduled", "status": "False", "message": message}
    pod["status"] = {"phase": "Pending", "conditions": [scheduled]}
    return pod


async def test_room_is_asked_for_twice_a_minute(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    cluster.room = DeviceRoom(largest_node=8, largest_free=0)
    cluster.put_pod(without_room())
    for _ in range(2):
        assert await operator.act() == pytest.approx(10.0, abs=9.0)
        operator.clock.now += timedelta(seconds=1)
    assert cluster.reads == ["room nvidia.com/gpu"]
    operator.clock.now += timedelta(seconds=30)
    await operator.act()
    assert cluster.reads == ["room nvidia.com/gpu"] * 2


async def test_a_claim_of_one_node_is_told_while_several_replicas_want_it(
    cluster: FakeCluster, start: Start
) -> None:
    cache = {"volume": {"persistentVolumeClaim": {"claimName": "cache"}}}
    engine: Manifest = {"sim": None, "torch": {}}
    spec = {"model": {"uri": "hf://a/b", "cache": cache}, "engine": engine, "replicas": 2}
    cluster.put_sd(fleet(spec))
    cluster.modes = {"cache": ("ReadWriteOnce",)}
    operator = start()
    await operator.act()
    assert conditions(cluster)["VolumesShareable"] == ("False", "ClaimOfOneNode")
    assert "ClaimOfOneNode" in {event.reason for event in cluster.events}
    cluster.put_sd(fleet({**spec, "replicas": 1}, generation=2))
    operator.clock.now += timedelta(seconds=2)
    await operator.act()
    assert "VolumesShareable" not in conditions(cluster)
    assert cluster.reads == ["claim cache"]


async def test_passes_that_want_the_same_room_wait_for_one_reading(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    cluster.room = DeviceRoom(largest_node=8, largest_free=0)
    cluster.put_pod(without_room())
    observed = cluster.view.observed(KEY)
    assert observed is not None
    gathering = Gathering(cluster, operator.metrics, operator.clock.monotonic)
    sd = parse(observed.sd)
    found = await asyncio.gather(
        *(gathering.gathered(KEY, sd, observed, operator.clock()) for _ in range(16))
    )
    assert [each.room for each in found] == [cluster.room] * 16
    assert cluster.reads == ["room nvidia.com/gpu"]


SHARED: Manifest = {
    "model": {
        "uri": "hf://a/b",
        "cache": {"volume": {"persistentVolumeClaim": {"claimName": "cache"}}},
    },
    "engine": {"sim": None, "torch": {}},
    "replicas": 2,
}


async def test_a_claim_that_is_made_after_the_fleet_is_looked_at_within_a_minute(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.put_sd(fleet(SHARED))
    operator = start()
    assert await operator.act() == 60.0
    assert "VolumesShareable" not in conditions(cluster)
    cluster.modes = {"cache": ("ReadWriteOnce",)}
    operator.clock.now += timedelta(seconds=60)
    assert await operator.act() == 60.0
    assert conditions(cluster)["VolumesShareable"] == ("False", "ClaimOfOneNode")
    # Somebody has made another one in its place.
    cluster.modes = {"cache": ("ReadWriteMany",)}
    operator.clock.now += timedelta(seconds=60)
    assert await operator.act() is None
    assert "VolumesShareable" not in conditions(cluster)


async def test_a_look_at_everything_finds_what_nothing_has_told(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.put_sd(fleet(SHARED))
    cluster.modes = {"cache": ("ReadWriteMany",)}
    operator = start()
    await operator.act()
    assert await operator.act() is None
    cluster.modes = {"cache": ("ReadWriteOnce",)}
    operator.clock.now += timedelta(hours=1)
    assert await operator.written() == []
    operator.reconciler.look_anew(KEY)
    assert await operator.written() == ["status"]
    assert conditions(cluster)["VolumesShareable"] == ("False", "ClaimOfOneNode")
