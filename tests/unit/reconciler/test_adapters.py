"""Passes over a fleet whose replicas hold adapters."""

from datetime import timedelta

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    FakeCluster,
    FakeReplicas,
    Operator,
    replica_pod,
    until,
)
from tests.reconciler_world import (
    ADAPTERS,
    DIGEST,
    HOLDS,
    WITH_ADAPTER,
    Start,
    conditions,
    fails,
    serving,
)

from sampler_api.fleet import ReplicaStatus
from sampler_operator.errors import (
    Denied,
    Refused,
    Unavailable,
)


async def holding(cluster: FakeCluster, replicas: FakeReplicas, start: Start) -> Operator:
    """An operator of a fleet whose one replica holds its adapter, all of it told."""
    cluster.put_sd(fleet(WITH_ADAPTER))
    operator = start()
    await operator.act()
    replicas.answers["p1"] = HOLDS
    serving(cluster, "p1")
    await operator.act()
    await until(lambda: operator.queued)
    operator.clock.now += timedelta(seconds=2)
    await operator.act()
    return operator


async def test_a_new_operator_writes_nothing_where_replicas_hold_adapters(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    operator = await holding(cluster, replicas, start)
    assert conditions(cluster)["AdaptersReady"] == ("True", "AdaptersHeld")
    assert DIGEST in cluster.objects[ADAPTERS]["data"]["adapters.json"]

    new = start()
    new.clock.now = operator.clock.now + timedelta(seconds=60)
    assert await new.written() == []
    await until(lambda: new.queued)
    assert await new.written() == []


async def test_a_new_operator_tells_at_last_that_a_replica_does_not_answer(
    cluster: FakeCluster, start: Start
) -> None:
    cluster.put_sd(fleet(WITH_ADAPTER))
    await start().act()
    serving(cluster, "p1")
    new = start()
    assert await new.written() == ["status"]
    assert conditions(cluster)["Ready"] == ("True", "Serving")
    assert conditions(cluster)["AdaptersReady"] == ("False", "NoReplicas")
    await until(lambda: new.queued)
    new.clock.now += timedelta(seconds=2)
    assert await new.written() == ["status"]
    assert conditions(cluster)["AdaptersReady"] == ("False", "StatusUnreachable")


async def test_before_replicas_are_asked_all_else_is_told(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    await holding(cluster, replicas, start)
    assert cluster.sd is not None
    held = cluster.sd["status"]["adapters"]
    assert held == [{"name": "one", "digest": DIGEST, "replicas": 1}]

    cluster.put_sd(fleet({**WITH_ADAPTER, "image": "acme/bad:1"}, generation=2))
    cluster.fault = fails("apply Deployment fleet", Refused("Deployment fleet: no", "422"))
    await start().act()
    assert conditions(cluster)["Accepted"] == ("False", "InvalidPodTemplate")
    assert conditions(cluster)["AdaptersReady"] == ("True", "AdaptersHeld")
    told = cluster.sd["status"]
    assert (told["adapters"], told["adaptersSummary"]) == (held, "1/1")
    of_adapters = next(c for c in told["conditions"] if c["type"] == "AdaptersReady")
    assert of_adapters["observedGeneration"] == 1


async def test_only_pods_that_lag_are_touched(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    cluster.put_sd(fleet(WITH_ADAPTER))
    operator = start()
    await operator.act()
    old = ReplicaStatus(True, "i", adapters_hash="old")
    replicas.answers |= {"held": HOLDS, "lags": old, "leaves": old, "mute": "no answer"}
    for name in replicas.answers:
        cluster.put_pod(replica_pod(name, is_leaving=name == "leaves"))
    await operator.act()
    await until(lambda: len(replicas.asked) == 3)
    await until(lambda: len(operator.queued) == 3)
    operator.clock.now += timedelta(seconds=2)
    writes = await operator.written()
    assert [write for write in writes if write.startswith("annotate")] == ["annotate lags"]
    cluster.put_pod(replica_pod("other", is_ready=False))
    again = await operator.written()
    assert [write for write in again if write.startswith("annotate")] == []


async def test_no_pod_is_touched_before_the_config_map_says_what_it_should_hold(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    operator = start()
    await operator.act()
    replicas.answers["p1"] = ReplicaStatus(True, "i", adapters_hash="old")
    cluster.put_pod(replica_pod())
    await operator.act()
    await until(lambda: operator.queued)
    cluster.put_sd(fleet(WITH_ADAPTER, generation=2))
    cluster.fault = fails(f"apply {ADAPTERS}", Unavailable("away"))
    with pytest.raises(Unavailable):
        await operator.act()
    assert "annotate p1" not in cluster.writes
    cluster.fault = lambda write: None
    operator.clock.now += timedelta(seconds=2)
    assert "annotate p1" in await operator.written()


async def test_a_pod_that_cannot_be_touched_is_no_error(
    cluster: FakeCluster, replicas: FakeReplicas, start: Start
) -> None:
    cluster.put_sd(fleet(WITH_ADAPTER))
    operator = start()
    replicas.answers["p1"] = ReplicaStatus(True, "i", adapters_hash="old")
    cluster.put_pod(replica_pod())
    await operator.act()
    await until(lambda: operator.queued)
    cluster.fault = fails("annotate p1", Denied("no"))
    await operator.act()
