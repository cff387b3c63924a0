"""The API server goes, hangs and forgets: the operator goes on where it was, without a restart."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.fleet_objects import child_uids
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until

from sampler_operator.errors import NamespaceGoing, Refused
from sampler_operator.kube.api import KubeApi
from sampler_operator.kube.cluster import KubeCluster
from sampler_operator.kube.recorder import EventRecorder
from sampler_operator.metrics import OperatorMetrics

# The API server is down, or starts, for half a minute.
pytestmark = [pytest.mark.long, pytest.mark.timeout(150)]

OUTAGE_SECONDS = 20
# A watch that was refused asks again within 5 s.
RECOVERY_SECONDS = 8
HANG_SECONDS = 8


@pytest.fixture(autouse=True)
def _controllers(api_server: ApiServer) -> Iterator[None]:
    yield
    api_server.restart_controllers()


@pytest.fixture
def is_clusterwide() -> bool:
    """Whether the operator serves all namespaces, as an installation does by default."""
    return False


SCOPES = pytest.mark.parametrize(
    "is_clusterwide",
    [pytest.param(True, id="all namespaces"), pytest.param(False, id="one namespace")],
)


@pytest.fixture
def operator(
    api_server: ApiServer, namespace: str, is_clusterwide: bool
) -> Iterator[OperatorProcess]:
    options = () if is_clusterwide else ("--namespace", namespace)
    with OperatorProcess(api_server, *options) as operator:
        pid = operator.pid
        yield operator
        assert operator.is_running
        assert operator.pid == pid
        assert "Traceback" not in operator.log


@pytest.fixture
def fleets(
    api_server: ApiServer, namespace: str, operator: OperatorProcess
) -> tuple[LiveFleet, ...]:
    """Three, with all children and an accepted status."""
    found = tuple(LiveFleet(api_server, namespace, f"fleet-{number}") for number in range(3))
    for fleet in found:
        # Without a scheduler nothing happens to the pods.
        fleet.create({"image": "registry.example/sampler:1", "schedulerName": "nobody"})
    for fleet in found:
        wait_until_created(fleet)
    return found


def wait_until_created(fleet: LiveFleet) -> None:
    fleet.wait_observed()
    fleet.wait(lambda: len(fleet.replica_sets()) == 1, "its pods are made")


def image(deployment: Object) -> str:
    found: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


def seconds_to_roll_out(fleets: tuple[LiveFleet, ...], new: str) -> float:
    """From a change of every fleet's image until all Deployments have it."""
    begun = time.monotonic()
    for fleet in fleets:
        fleet.change({"image": new})
    for fleet in fleets:
        fleet.wait(lambda fleet=fleet: image(fleet.child("Deployment")) == new, "it is rolled out")  # type: ignore[misc]
    return time.monotonic() - begun


def assert_rolled_out_once(fleet: LiveFleet) -> None:
    """By one change of its Deployment. Its controller may come back only half a minute later."""
    fleet.wait_observed()
    deployment = fleet.child("Deployment")
    assert image(deployment) == "registry.example/sampler:2"
    assert deployment["metadata"]["generation"] == 2
    assert len(fleet.replica_sets()) <= 2


@SCOPES
def test_after_an_outage_a_change_is_rolled_out_soon(
    api_server: ApiServer, fleets: tuple[LiveFleet, ...]
) -> None:
    before = [child_uids(fleet) for fleet in fleets]
    api_server.stop_api()
    threading.Event().wait(OUTAGE_SECONDS)
    api_server.start_api()
    taken = seconds_to_roll_out(fleets, "registry.example/sampler:2")
    print(f"{taken:.1f} s after the outage all changes were rolled out")
    assert taken < RECOVERY_SECONDS
    for fleet in fleets:
        assert_rolled_out_once(fleet)
    assert [child_uids(fleet) for fleet in fleets] == before


@SCOPES
def test_what_no_watch_can_tell_any_more_is_found(
    api_server: ApiServer, operator: OperatorProcess, fleets: tuple[LiveFleet, ...]
) -> None:
    kept, damaged, deleted = fleets
    before = child_uids(kept)
    client = api_server.client

    def states() -> float:
        found = operator.metrics()
        return sum(n for name, n in found.items() if "operator_deployments{" in name)

    # Of all namespaces, it serves fleets of former tests until they are gone.
    wait_until(lambda: states() == 3, "only these three are left", 60)
    os.kill(operator.pid, signal.SIGSTOP)
    try:
        # Else what follows would wait in the buffers of the operator's connections.
        api_server.stop_api()
        api_server.start_api()
        client.delete(damaged.child_path("Deployment"), {"propagationPolicy": "Background"})
        client.delete(damaged.child_path("ConfigMap"))
        client.delete(deleted.path, {"propagationPolicy": "Background"})
        kept.change({"image": "registry.example/sampler:2"})
        api_server.stop_api()
        api_server.compact()
        api_server.start_api()
    finally:
        os.kill(operator.pid, signal.SIGCONT)
    for kind in ("Deployment", "ConfigMap"):
        damaged.wait(lambda kind=kind: damaged.has_child(kind), f"{kind} is there again")  # type: ignore[misc]
    assert_rolled_out_once(kept)
    assert child_uids(kept) == before
    wait_until(lambda: states() == 2, "the operator has forgotten the deleted one")
    deleted.create({"image": "registry.example/sampler:3", "schedulerName": "nobody"})
    uid = deleted.get()["metadata"]["uid"]

    def is_served() -> bool:
        owners = deleted.metadata_of("Deployment").get("ownerReferences", ())
        return [each["uid"] for each in owners] == [uid]

    deleted.wait(is_served, "a new one of that name has children of its own")


def test_an_api_server_that_hangs_delays_and_breaks_nothing(
    api_server: ApiServer, fleets: tuple[LiveFleet, ...]
) -> None:
    before = [child_uids(fleet) for fleet in fleets]
    for fleet in fleets:
        fleet.change({"image": "registry.example/sampler:2"})
    with api_server.frozen_api():
        threading.Event().wait(HANG_SECONDS)
    for fleet in fleets:
        assert_rolled_out_once(fleet)
    assert [child_uids(fleet) for fleet in fleets] == before


async def test_what_is_invalid_is_told_from_what_a_quota_refuses(
    api_server: ApiServer, namespace: str
) -> None:
    client, none = api_server.client, {"count/deployments.apps": "0"}
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    client.post(quotas, {"metadata": {"name": "none"}, "spec": {"hard": none}})
    api = await KubeApi.connect(str(api_server.kubeconfig("quota", ("system:masters",))))
    metrics = OperatorMetrics(CollectorRegistry())
    recorder = EventRecorder(api, lambda: datetime.now(UTC), metrics, lambda: False)
    cluster = KubeCluster(api, recorder, lambda kind: None, lambda: None)
    labels = {"app": "a"}
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "fleet", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "server", "image": "a"}]},
            },
        },
    }

    def quota_holds() -> bool:
        deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        try:
            client.post(deployments, deployment, dryRun="All")
        except RefusedError as error:
            return error.code == 403
        return False

    wait_until(quota_holds, "the quota holds", 30, 0.2)
    try:
        with pytest.raises(Refused, match=r"Deployment fleet: .*exceeded quota") as refusal:
            await cluster.apply(deployment, force=False)
        assert refusal.value.field == "403"
        deployment["spec"]["template"]["spec"]["containers"] = [{"name": "server"}]
        with pytest.raises(Refused, match=r"Deployment fleet: .*image") as refusal:
            await cluster.apply(deployment, force=False)
        assert refusal.value.field == "422"
    finally:
        await api.close()


async def test_a_namespace_that_is_being_deleted_is_told_from_other_refusals(
    api_server: ApiServer, namespace: str
) -> None:
    client, name = api_server.client, f"{namespace}-going"
    maps = f"/api/v1/namespaces/{name}/configmaps"
    client.post("/api/v1/namespaces", {"metadata": {"name": name}})
    held = {"metadata": {"name": "held", "finalizers": ["tests.sampler.dev/held"]}}
    client.post(maps, held)
    client.delete(f"/api/v1/namespaces/{name}")
    api = await KubeApi.connect(str(api_server.kubeconfig("going", ("system:masters",))))
    metrics = OperatorMetrics(CollectorRegistry())
    recorder = EventRecorder(api, lambda: datetime.now(UTC), metrics, lambda: False)
    cluster = KubeCluster(api, recorder, lambda kind: None, lambda: None)
    meta = {"name": "late", "namespace": name}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    ports = {"clusterIP": "None", "ports": [{"port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": ports}
    try:
        # One is created, the other applied.
        for manifest in (config, service):
            with pytest.raises(NamespaceGoing, match="because it is being terminated"):
                await cluster.apply(manifest, force=False)
    finally:
        await api.close()
        client.patch(f"{maps}/held", {"metadata": {"finalizers": None}})
