"""An operator that is killed at any point ends, when it is started again, where one that never was
killed ends; and without an operator a fleet can be deleted.
"""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import KubeClient, Object
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.fleet_objects import assert_untouched, child_uids, children, history, outcome
from tests.installed_crd import install_crd, sampler_path
from tests.live_fleet import LiveFleet
from tests.mortal_cluster import Cut, Death, Point
from tests.operator_process import OperatorProcess
from tests.operator_thread import OperatorThread
from tests.proxy import wait_until
from tests.spec_cases import MINIMAL, changed, manifest

pytestmark = pytest.mark.long

AT_ONCE = 6
KILLS = 6
SETTLED_SECONDS = 40

# Without a scheduler the pods, and with them the status, do not depend on anybody's speed.
CREATED = changed(
    MINIMAL, {"image": "registry.example/sampler:1", "replicas": 2, "schedulerName": "nobody"}
)
CHANGE: dict[str, Any] = {
    "image": "registry.example/sampler:2",
    "replicas": 3,
    "disruptionBudget": {"enabled": False},
    "lora": {
        "volumes": [{"name": "runs", "mountPath": "/adapters", "emptyDir": {}}],
        "adapters": [{"name": "a", "path": "/adapters/a"}],
    },
}
CHILD_WRITES: frozenset[Point] = frozenset(
    {
        ("apply ConfigMap fleet-adapters", 1),
        ("apply Service fleet", 1),
        ("apply Service fleet-replicas", 1),
        ("apply PodDisruptionBudget fleet", 1),
        ("apply Deployment fleet", 1),
        ("apply ConfigMap fleet-adapters", 2),
        ("delete PodDisruptionBudget fleet", 1),
        ("apply Deployment fleet", 2),
    }
)


@pytest.fixture(scope="module", autouse=True)
def _crd(api_server: ApiServer) -> None:
    install_crd(api_server)


class Lives:
    """The operator of a namespace: one that may die, and then one that does not."""

    def __init__(self, server: ApiServer, namespace: str, death: Death) -> None:
        self._server = server
        self._namespace = namespace
        self._death = death
        self._stack = ExitStack()

    def __enter__(self) -> "Lives":
        self._operator = self._start(self._death)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Return as soon as it holds; who dies meanwhile is followed by another."""
        is_dead = False

        def dies_or_holds() -> bool:
            nonlocal is_dead
            is_dead = is_dead or (self._operator is not None and self._death.has_come)
            return is_dead or holds()

        wait_until(dies_or_holds, what, SETTLED_SECONDS, 0.2)
        if is_dead and self._operator is not None:
            self._operator.kill()
            self._operator = None
            self._start(Death())
            wait_until(holds, f"{what} after a restart", SETTLED_SECONDS, 0.2)

    def _start(self, death: Death) -> OperatorThread | None:
        made = OperatorThread(self._server.admin_kubeconfig, self._namespace, wrap=death.of)
        return self._stack.enter_context(made)


def shows(client: KubeClient, namespace: str, **wanted: object) -> bool:
    """The status of the fleet says so."""
    status: Object = client.get(sampler_path(namespace, "fleet")).get("status", {})
    return wanted.items() <= status.items()


def outcome_at_rest(client: KubeClient, namespace: str) -> Object:
    """What is the same for longer than one status write waits for the next."""
    seen: Object = {}
    while (now := outcome(client, namespace, "fleet")) != seen:
        seen = now
        threading.Event().wait(1.2)
    return seen


def scenario(server: ApiServer, namespace: str, death: Death) -> Object:
    """A fleet is made, then changed in every way at once: what comes of it."""
    client, path = server.client, sampler_path(namespace, "fleet")
    with Lives(server, namespace, death) as operator:
        made = client.post(sampler_path(namespace), manifest(CREATED))
        first = partial(
            shows, client, namespace, observedGeneration=1, summary="0/2", updatedReplicas=2
        )
        operator.until(first, "the fleet is as it was made")
        client.patch(path, {"spec": CHANGE})
        second = partial(
            shows, client, namespace, observedGeneration=2, summary="0/3", updatedReplicas=1
        )
        operator.until(second, "the fleet is as it was changed")
        end = outcome_at_rest(client, namespace)
    for state in history(client, namespace, "fleet", made["metadata"]["resourceVersion"]):
        assert_untouched(state)
    return end


@pytest.fixture
def namespaces(api_server: ApiServer, namespace: str) -> Iterator[Callable[[], str]]:
    """Makes further ones."""
    client = api_server.client
    made: list[str] = []

    def make() -> str:
        made.append(make_namespace(client, f"{namespace}-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        end_namespace(client, each)


@pytest.mark.parametrize("cut", ["after", "instead of"])
@pytest.mark.timeout(180)  # a dozen operators, with two lives each
def test_killed_at_any_write_it_ends_where_the_uncut_one_does(
    api_server: ApiServer, namespace: str, namespaces: Callable[[], str], cut: Cut
) -> None:
    uncut = Death()
    wanted = scenario(api_server, namespace, uncut)
    assert {point for point in uncut.writes if point[0] != "status"} == CHILD_WRITES
    assert set(wanted["children"]) == {
        "ConfigMap fleet-adapters",
        "Deployment fleet",
        "Service fleet",
        "Service fleet-replicas",
    }
    assert wanted["children"]["Deployment fleet"]["metadata"]["generation"] == 2
    assert wanted["replica sets"] == 2

    # Of a write that is sent alone, to lose it is to be killed after the one before.
    points = uncut.writes if cut == "after" else sorted(CHILD_WRITES)
    deaths = [Death(cut, point) for point in points]
    places = [namespaces() for _ in deaths]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        ends = list(threads.map(partial(scenario, api_server), places, deaths))
    for death, end in zip(deaths, ends, strict=True):
        assert end == wanted, str(death)
    # There may be a status less than in the uncut run.
    assert {death.at for death in deaths if death.has_come} >= CHILD_WRITES


@pytest.fixture
def fleets(api_server: ApiServer, namespace: str) -> tuple[LiveFleet, ...]:
    """Three; without a scheduler nothing happens to their pods."""
    found = tuple(LiveFleet(api_server, namespace, f"fleet-{number}") for number in range(3))
    for fleet in found:
        fleet.create({"image": "registry.example/sampler:0", "schedulerName": "nobody"})
    return found


@pytest.mark.timeout(120)  # seven operators, one after the other
def test_a_process_that_is_killed_at_any_moment_is_followed_by_one_that_goes_on(
    api_server: ApiServer, namespace: str, fleets: tuple[LiveFleet, ...]
) -> None:
    moments = random.Random(7)
    with OperatorProcess(api_server, "--namespace", namespace) as operator:
        for fleet in fleets:
            fleet.wait_observed()
        before = [child_uids(fleet) for fleet in fleets]
        for number in range(1, KILLS + 1):
            for fleet in fleets:
                fleet.change({"image": f"registry.example/sampler:{number}"})
            # The first ones while they work, the others while they start.
            longest = 0.3 if number <= KILLS // 2 else 3.0
            threading.Event().wait(moments.uniform(0, longest))
            operator.kill()
            operator.start(wait=number <= KILLS // 2 or number == KILLS)
        for fleet in fleets:
            fleet.wait_observed()
            spec = fleet.child("Deployment")["spec"]["template"]["spec"]
            assert spec["containers"][0]["image"] == f"registry.example/sampler:{KILLS}"
            assert fleet.child("Deployment")["metadata"]["generation"] <= 1 + KILLS
        assert [child_uids(fleet) for fleet in fleets] == before
        assert "Traceback" not in operator.log


@pytest.mark.timeout(120)  # the garbage collector looks for new kinds twice a minute
def test_a_fleet_is_deleted_without_an_operator(
    api_server: ApiServer, namespace: str, fleets: tuple[LiveFleet, ...]
) -> None:
    with OperatorProcess(api_server, "--namespace", namespace):
        for fleet in fleets:
            fleet.wait(lambda fleet=fleet: fleet.pods(), "its pod is made")  # type: ignore[misc]
    deleted, *kept = fleets

    def names() -> set[str]:
        found = [*children(api_server.client, namespace), *deleted.replica_sets()]
        found += [each["metadata"]["name"] for each in deleted.pods()]
        return {each for each in found if deleted.name in each}

    assert len(names()) == 7
    assert_untouched(deleted.get())
    api_server.client.delete(deleted.path, {"propagationPolicy": "Background"})
    assert not api_server.client.exists(deleted.path)
    wait_until(lambda: not names(), "the garbage collector has taken its children", 60, 0.2)
    assert all(child_uids(fleet) and fleet.replica_sets() and fleet.pods() for fleet in kept)
