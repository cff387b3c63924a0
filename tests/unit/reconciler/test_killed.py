"""An operator that is killed after any write: a new one ends where it would have."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import (
    KEY,
    FakeCluster,
    FakeReplicas,
    Killed,
    Operator,
    replica_pod,
)
from tests.reconciler_world import (
    DEPLOYMENT,
    DIGEST,
    HOLDS,
    WITH_ADAPTER,
    serving,
)
from tests.spec_cases import VOLUME, adapter

from sampler_api.fleet import AdaptersConfig, AdapterState, DeclaredAdapter, ReplicaStatus
from sampler_operator.names import TEMPLATE_HASH_LABEL
from sampler_operator.objects import Manifest


async def writes_of(operator: Operator, most: int | None) -> bool:
    """A pass that is killed after ``most`` writes; whether it came to its end."""
    done = 0

    def fault(write: str) -> None:
        nonlocal done
        if most is not None and done >= most:
            raise Killed
        done += 1

    operator.cluster.fault = fault
    try:
        await operator.act()
    except Killed:
        return False
    finally:
        operator.cluster.fault = lambda write: None
    return True


PASSES: dict[str, list[Manifest]] = {
    "the first pass": [fleet()],
    "a rollout": [fleet(), fleet({"rollout": {"drainSeconds": 5}}, generation=2)],
    "a section that goes": [
        fleet({"networkPolicy": {"enabled": True}}),
        fleet({"disruptionBudget": {"enabled": False}, "replicas": 2}, generation=2),
    ],
    "a spec that becomes wrong": [
        fleet(),
        fleet({"tensorParallelSize": 2, "enginesPerGPU": 2}, generation=2),
    ],
}


@pytest.mark.parametrize("is_lagging", [False, True], ids=["watches", "lagging watches"])
@pytest.mark.parametrize("states", PASSES.values(), ids=PASSES.keys())
async def test_killed_after_any_write_a_new_operator_ends_where_the_former_would(
    states: list[Manifest], is_lagging: bool
) -> None:
    async def outcome(most: int | None) -> tuple[bool, dict[str, Any]]:
        cluster = FakeCluster()
        for state in states[:-1]:
            cluster.put_sd(state)
            await Operator(cluster).act()
        cluster.is_lagging = is_lagging
        cluster.put_sd(states[-1])
        cluster.view.put(cluster.sd or {})
        has_ended = await writes_of(Operator(cluster), most)
        cluster.deliver()
        following = Operator(cluster)
        await following.act()
        cluster.deliver()
        assert await following.written() == []
        return has_ended, cluster.outcome()

    has_ended, whole = await outcome(None)
    assert has_ended
    for most in range(20):
        has_ended, found = await outcome(most)
        assert found == whole, f"killed after {most} writes"
        if has_ended:
            break
    assert has_ended
    assert most >= 1


TWO_ADAPTERS: Manifest = {
    "lora": {"volumes": [VOLUME], "adapters": [adapter("one"), adapter("two")]},
    "image": "acme/torch:2",
}
HASH_OF_TWO = AdaptersConfig(
    (DeclaredAdapter("one", "/adapters/one"), DeclaredAdapter("two", "/adapters/two"))
).declared_hash
HOLDS_TWO = ReplicaStatus(
    True,
    "i",
    adapters_hash=HASH_OF_TWO,
    declared=(AdapterState("one", "held", DIGEST), AdapterState("two", "held", DIGEST)),
    held=(DIGEST,),
)


def changes(cluster: FakeCluster) -> None:
    """Another image, and an adapter that the one replica does not hold."""
    cluster.put_sd(fleet(TWO_ADAPTERS, generation=2))


def joins(cluster: FakeCluster) -> None:
    """A replica of the new template, beside the former one, holds both adapters."""
    status = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2}
    cluster.change(DEPLOYMENT, {"status": status})
    new = replica_pod("p2", life="c2")
    new["metadata"]["labels"][TEMPLATE_HASH_LABEL] = "b"
    cluster.put_pod(new)


def leaves(cluster: FakeCluster) -> None:
    """The former replica goes."""
    status = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    cluster.change(DEPLOYMENT, {"status": status})
    cluster.put_pod(replica_pod(is_leaving=True))


async def rest(operator: Operator) -> None:
    """Passes until one writes nothing, and what replicas say is known."""
    while True:
        written = await operator.written()
        for _ in range(10):
            await asyncio.sleep(0)
        if not written and not operator.queued:
            return
        operator.queued.clear()
        operator.clock.now += timedelta(seconds=2)


async def test_killed_at_any_write_of_a_rollout_a_new_operator_ends_where_the_former_would() -> (
    None
):
    async def outcome(most: int | None) -> tuple[bool, list[str], Any]:
        cluster, replicas, has_died = FakeCluster(), FakeReplicas(), False
        replicas.answers |= {"p1": HOLDS, "p2": HOLDS_TWO}
        cluster.put_sd(fleet(WITH_ADAPTER))
        operator = Operator(cluster, replicas)
        await rest(operator)
        serving(cluster, "p1")
        await rest(operator)
        begin = len(cluster.writes)

        def fault(write: str) -> None:
            if most is not None and len(cluster.writes) - begin >= most:
                raise Killed

        cluster.fault = fault
        for step in (changes, joins, leaves):
            step(cluster)
            try:
                await rest(operator)
            except Killed:
                has_died, cluster.fault = True, lambda write: None
                await operator.close()
                operator = Operator(cluster, replicas, operator.clock)
                await rest(operator)
        await operator.close()
        end = cluster.outcome()
        for condition in end["status"]["conditions"]:
            del condition["lastTransitionTime"]
        observed = cluster.view.observed(KEY)
        assert observed is not None
        hashes = {pod.name: pod.adapters_hash for pod in observed.pods}
        return has_died, cluster.writes[begin:], (end, hashes)

    has_died, writes, whole = await outcome(None)
    assert not has_died
    assert writes.count("annotate p1") == 1
    assert writes.count("apply Deployment fleet") == 1
    assert writes.count("status") >= 3
    assert whole[1] == {"p1": HASH_OF_TWO, "p2": ""}
    for most in range(len(writes)):
        has_died, _, found = await outcome(most)
        assert has_died, f"not killed after {most} of {writes}"
        assert found == whole, f"killed after {most} of {writes}"
