"""When the status is written, and what of a pass is told."""

from datetime import timedelta

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    FakeCluster,
)
from tests.reconciler_world import (
    DEPLOYMENT,
    Start,
    creating,
    fails,
)

from sampler_operator.errors import (
    Missing,
)


async def test_the_status_is_written_once_a_second_at_most(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    operator.clock.now += timedelta(seconds=0.25)
    cluster.change(DEPLOYMENT, {"status": {"replicas": 1}})
    assert await operator.act() == 0.75
    cluster.change(DEPLOYMENT, {"status": {"readyReplicas": 1}})
    operator.clock.now += timedelta(seconds=0.75)
    assert await operator.written() == ["status"]
    assert cluster.sd is not None
    assert (cluster.sd["status"]["replicas"], cluster.sd["status"]["readyReplicas"]) == (1, 1)


async def test_a_pass_that_waits_to_tell_is_repeated_though_nothing_happens(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    await operator.act()
    cluster.change(DEPLOYMENT, {"status": {"replicas": 1}})
    assert await operator.act() == 1.0
    operator.clock.now += timedelta(seconds=1)
    assert await operator.written() == ["status"]
    assert await operator.act() is None


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_moves_no_wait(
    cluster: FakeCluster, start: Start, hours: int
) -> None:
    operator = start()
    await operator.act()
    operator.clock.now += timedelta(seconds=0.25)
    operator.clock.step = timedelta(hours=hours)
    cluster.change(DEPLOYMENT, {"status": {"replicas": 1}})
    assert await operator.act() == 0.75


async def test_a_pod_is_looked_at_soon_though_the_clock_was_set_back(
    cluster: FakeCluster, start: Start
) -> None:
    operator = start()
    operator.clock.step = timedelta(hours=-1)
    cluster.put_pod(creating(age=5))
    again = await operator.act()
    assert again == 20.5


async def test_a_new_generation_is_told_at_once(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    await operator.act()
    cluster.put_sd(fleet({"replicas": 2}, generation=2))
    assert "status" in await operator.written()


async def test_a_fleet_that_is_deleted_while_its_status_is_written_is_no_error(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.fault = fails("status", Missing("gone"))
    await start().act()


async def test_nothing_is_told_of_a_pass_twice(cluster: FakeCluster, start: Start) -> None:
    operator = start()
    await operator.act()
    told = len(cluster.events)
    assert told
    await operator.act()
    assert len(cluster.events) == told
