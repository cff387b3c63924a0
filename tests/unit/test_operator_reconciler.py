"""Passes over one SamplerDeployment, against a cluster in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.kube_objects import ago, fleet
from tests.operator_fakes import (
    KEY,
    SETTINGS,
    FakeCluster,
    FakeReplicas,
    Killed,
    Operator,
    replica_pod,
    until,
)
from tests.spec_cases import VOLUME, adapter

from sampler_api.fleet import AdaptersConfig, AdapterState, DeclaredAdapter, ReplicaStatus
from sampler_operator.errors import (
    ClusterError,
    Denied,
    Missing,
    NamespaceGoing,
    Refused,
    Unavailable,
)
from sampler_operator.gathering import Gathering
from sampler_operator.names import TEMPLATE_HASH_LABEL, Ref
from sampler_operator.objects import Manifest
from sampler_operator.plan import BuildSettings
from sampler_operator.ports import DeviceRoom, Event
from sampler_operator.spec.parse import parse

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


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put_sd(fleet())
    return made


@pytest.fixture
def replicas() -> FakeReplicas:
    return FakeReplicas()


Start = Callable[..., Operator]


@pytest.fixture
async def start(cluster: FakeCluster, replicas: FakeReplicas) -> AsyncIterator[Start]:
    """Starts operators, one after the other or side by side, and ends them."""
    started: list[Operator] = []

    def make(settings: BuildSettings = SETTINGS) -> Operator:
        started.append(Operator(cluster, replicas, settings=settings))
        return started[-1]

    yield make
    for operator in started:
        await operator.close()


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


# Writing


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


# Killed


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


# The status


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


# Failures


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


# Adapters


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


# Trouble


def creating(age: float, name: str = "p1") -> Manifest:
    pod = replica_pod(name, is_ready=False)
    pod["metadata"]["creationTimestamp"] = ago(age)
    state = {"name": "server", "state": {"waiting": {"reason": "ContainerCreating"}}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [state]}
    return pod


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
