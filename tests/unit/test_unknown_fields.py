"""A SamplerDeployment with fields of a newer operator."""

from datetime import timedelta
from typing import Any, Final

import pytest
from tests.kube_objects import fleet
from tests.operator_fakes import FakeCluster, Operator, replica_pod
from tests.spec_cases import EVERYTHING, changed

from sampler_operator.errors import InvalidSpec
from sampler_operator.names import TEMPLATE_DIGEST, Ref
from sampler_operator.spec.parse import known_part

DEPLOYMENT: Final = Ref("Deployment", "fleet")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


PATHS = [
    pytest.param({"novel": 1}, ("spec.novel",), id="beside the others"),
    pytest.param({"model": {"novel": {"a": 1}}}, ("spec.model.novel",), id="deep inside"),
    pytest.param(
        {"lora": {"volumes": [{**EVERYTHING["lora"]["volumes"][0], "novel": []}]}},
        ("spec.lora.volumes[0].novel",),
        id="in a list",
    ),
    pytest.param(
        {"novel": None, "gpu": {"count": 2, "novel": 1}},
        ("spec.gpu.novel",),
        id="a null is none",
    ),
]


@pytest.mark.parametrize(("change", "paths"), PATHS)
def test_what_is_known_of_a_spec_is_read_without_the_rest(
    change: dict[str, Any], paths: tuple[str, ...]
) -> None:
    manifest = {**fleet(), "spec": changed(EVERYTHING, change)}
    sd, found = known_part(manifest)
    assert found == paths
    assert sd.spec.replicas == 3
    assert known_part({**fleet(), "spec": EVERYTHING})[1] == ()


def test_what_else_is_wrong_is_told() -> None:
    with pytest.raises(InvalidSpec, match=r"^spec\.replicas: must be at least 0, not -1$"):
        known_part(fleet({"novel": 1, "replicas": -1}))


async def test_a_field_that_does_not_concern_pods_is_told_once_and_the_fleet_goes_on(
    cluster: FakeCluster,
) -> None:
    cluster.put_sd(fleet())
    operator = Operator(cluster)
    await operator.act()
    told = len(cluster.events)
    cluster.put_sd(fleet({"replicas": 3, "novel": {"a": 1}}, generation=2))
    await operator.act()
    assert cluster.objects[DEPLOYMENT]["spec"]["replicas"] == 3
    assert ready_and_accepted(cluster)["Accepted"] == ("True", "Accepted")
    cluster.put_pod(replica_pod(is_ready=False))
    await operator.act()
    warnings = [event for event in cluster.events[told:] if event.reason == "UnknownField"]
    assert [(event.kind, event.message) for event in warnings] == [
        ("Warning", "this operator does not know spec.novel: it changes nothing")
    ]
    await operator.close()


async def test_pods_are_not_replaced_by_a_spec_that_is_understood_in_part(
    cluster: FakeCluster,
) -> None:
    """The Deployment is of a newer operator, which made something of the field."""
    cluster.put_sd(fleet({"replicas": 2}))
    operator = Operator(cluster)
    await operator.act()
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    newer = {"metadata": {"annotations": {TEMPLATE_DIGEST: "f" * 32}}}
    cluster.change(DEPLOYMENT, {**newer, "status": dict.fromkeys(counts, 2)})
    before = cluster.objects[DEPLOYMENT]
    cluster.put_sd(fleet({"replicas": 2, "gpu": {"novel": 1}}, generation=2))
    assert await operator.written() == ["status"]
    assert cluster.objects[DEPLOYMENT] == before
    found = ready_and_accepted(cluster)
    assert found["Accepted"] == ("False", "InvalidSpec")
    assert found["Ready"] == ("True", "Serving")
    assert cluster.sd is not None
    [accepted] = [c for c in cluster.sd["status"]["conditions"] if c["type"] == "Accepted"]
    assert accepted["message"].startswith("spec.gpu.novel: unknown to this operator")

    # Meanwhile the status lives.
    cluster.change(DEPLOYMENT, {"status": {"readyReplicas": 0, "availableReplicas": 0}})
    await operator.act()
    assert await operator.act() is not None
    operator.clock.now += timedelta(seconds=2)
    assert await operator.written() == ["status"]
    assert ready_and_accepted(cluster)["Ready"] == ("False", "WaitingForReplicas")
    assert cluster.sd["status"]["summary"] == "0/2"
    await operator.close()


async def test_a_new_fleet_does_not_start_with_a_spec_that_is_understood_in_part(
    cluster: FakeCluster,
) -> None:
    cluster.put_sd(fleet({"novel": 1}))
    operator = Operator(cluster)
    assert await operator.written() == ["status"]
    assert ready_and_accepted(cluster)["Ready"] == ("False", "InvalidSpec")
    cluster.put_sd(fleet(generation=2))
    assert f"apply {DEPLOYMENT}" in await operator.written()
    await operator.close()


def ready_and_accepted(cluster: FakeCluster) -> dict[str, tuple[str, str]]:
    assert cluster.sd is not None
    return {c["type"]: (c["status"], c["reason"]) for c in cluster.sd["status"]["conditions"]}
