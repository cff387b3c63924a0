"""What a change of each field of the spec does on a real cluster: the table of ``spec_effects``.

Every row is a fleet of its own, all of a group at once. They rest (replicas: 0) unless their size
is what changes: a new pod template then shows as a second ReplicaSet without pods.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.installed_crd import sampler_path
from tests.operator_process import OperatorProcess
from tests.pod_monitors import install_pod_monitors, remove_pod_monitors
from tests.proxy import wait_until
from tests.spec_effects import EFFECTS, SECTIONS, Effect, SpecEffect

from sampler_operator.kube.resources import CHILDREN, SAMPLER_DEPLOYMENTS, Resource, path_of
from sampler_operator.names import DIGEST, FLEET_LABEL

Group = tuple[tuple[int, SpecEffect], ...]

RESOURCES: Final = {"ReplicaSet": Resource("apps", "v1", "replicasets")}
GROUP_SIZE: Final = 32
ROWS: Final = tuple(enumerate((*EFFECTS, *SECTIONS)))
GROUPS: Final[tuple[Group, ...]] = tuple(
    ROWS[at : at + GROUP_SIZE] for at in range(0, len(ROWS), GROUP_SIZE)
)
SECONDS: Final = 50.0


@pytest.fixture(scope="module")
def new_namespace(api_server: ApiServer) -> Iterator[Callable[[], str]]:
    """Makes namespaces that outlive the operator: one that goes keeps it busy."""
    made: list[str] = []

    def make() -> str:
        made.append(make_namespace(api_server.client, f"effects-{len(made)}"))
        return made[-1]

    yield make
    for name in made:
        end_namespace(api_server.client, name)


@pytest.fixture(scope="module", autouse=True)
def operator(api_server: ApiServer, new_namespace: Callable[[], str]) -> Iterator[OperatorProcess]:
    install_pod_monitors(api_server)
    try:
        with OperatorProcess(api_server) as running:
            yield running
    finally:
        remove_pod_monitors(api_server)


@dataclass(frozen=True, slots=True)
class Seen:
    """A fleet at one moment: the spec of its Deployment, and what its other children say."""

    generation: int
    deployment: Object
    others: dict[str, Any]
    replica_sets: int

    @property
    def steering(self) -> Object:
        """What of the Deployment is neither its template nor its size."""
        return {
            name: part
            for name, part in self.deployment.items()
            if name not in ("template", "replicas")
        }


class Fleets:
    """The fleets of a group in their namespace. All are read at once: a request for each would take
    longer than the operator does."""

    def __init__(self, server: ApiServer, namespace: str, rows: Group) -> None:
        self._client = server.client
        self._namespace = namespace
        self._rows = {f"row-{number}": row for number, row in rows}

    def create(self) -> None:
        """Make all as they are before the change."""
        for name, row in self._rows.items():
            made = {**row.before, "metadata": {"name": name}, "spec": sized(row, row.before)}
            self._client.post(sampler_path(self._namespace), made)

    def change(self) -> None:
        """Replace all by what they are after it."""
        for name, row in self._rows.items():
            wait_until(lambda name=name, row=row: self._is_replaced(name, row), f"{name} is new")  # type: ignore[misc]

    def _is_replaced(self, name: str, row: SpecEffect) -> bool:
        path = sampler_path(self._namespace, name)
        present = self._client.get(path)
        try:
            self._client.put(path, {**present, "spec": sized(row, row.after)})
        except RefusedError as refused:
            # The operator has written a status in between.
            if refused.code != 409:
                raise
            return False
        return True

    def wait(self) -> None:
        """Until operator and Deployment controller have seen all as they are now."""

        def late() -> list[str]:
            kinds = (SAMPLER_DEPLOYMENTS, CHILDREN["Deployment"])
            seen = [self._are_observed(path_of(kind, self._namespace)) for kind in kinds]
            return [name for name in self._rows if not all(each.get(name) for each in seen)]

        try:
            wait_until(lambda: not late(), "all fleets are rolled out", SECONDS, 0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}, and not {late()}") from None

    def _are_observed(self, path: str) -> dict[str, bool]:
        return {
            each["metadata"]["name"]: (
                each.get("status", {}).get("observedGeneration") == each["metadata"]["generation"]
            )
            for each in self._client.items(path)
        }

    def seen(self) -> dict[str, Seen]:
        """All as they are now."""
        listed = {
            kind: self._client.items(path_of(resource, self._namespace), labelSelector=FLEET_LABEL)
            for kind, resource in (RESOURCES | CHILDREN).items()
        }
        return {name: self._one(name, listed) for name in self._rows}

    def _one(self, name: str, listed: dict[str, list[Object]]) -> Seen:
        found = {
            kind: [each for each in items if each["metadata"]["labels"][FLEET_LABEL] == name]
            for kind, items in listed.items()
        }
        (deployment,) = found.pop("Deployment")
        sets = found.pop("ReplicaSet")
        others = {
            f"{kind} {each['metadata']['name'].replace(name, 'fleet')}": (
                each["metadata"]["annotations"][DIGEST],
                {part: each.get(part) for part in ("data", "spec")},
            )
            for kind, items in found.items()
            for each in items
        }
        generation = deployment["metadata"]["generation"]
        return Seen(generation, deployment["spec"], others, len(sets))

    def findings(self, before: dict[str, Seen]) -> list[str]:
        """Where the cluster is not as the rows say."""
        after = self.seen()
        fleets = {
            each["metadata"]["name"]: each
            for each in self._client.items(sampler_path(self._namespace))
        }
        return [
            f"{row}: {finding}"
            for name, row in self._rows.items()
            for finding in (
                *refusals(fleets[name]),
                *findings(row, before[name], after[name]),
            )
        ]


def sized(row: SpecEffect, given: Object) -> Object:
    """The spec, of no pods unless their number is what the row is about."""
    spec: Object = given["spec"]
    return spec if row.path == "replicas" else {"replicas": 0, **spec}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0][1].path} and on")
def test_a_change_does_what_the_table_says(
    api_server: ApiServer, new_namespace: Callable[[], str], group: Group
) -> None:
    fleets = Fleets(api_server, new_namespace(), group)
    fleets.create()
    fleets.wait()
    before = fleets.seen()
    fleets.change()
    fleets.wait()
    wrong = fleets.findings(before)
    assert not wrong, "\n".join(wrong)


def refusals(sd: Object) -> Iterator[str]:
    """Why the operator does not take it."""
    accepted = next(each for each in sd["status"]["conditions"] if each["type"] == "Accepted")
    if accepted["status"] != "True":
        yield f"is not accepted: {accepted['message']}"


def findings(row: SpecEffect, old: Seen, new: Seen) -> Iterator[str]:
    """Where one fleet is not as its row says."""
    changes = {
        Effect.ROLLS: old.deployment["template"] != new.deployment["template"],
        Effect.SCALES: old.deployment["replicas"] != new.deployment["replicas"],
        Effect.NONE: old.generation == new.generation,
    }
    # A field that rolls pods may also steer: a startup's limit is part of a rollout's.
    if row.effect != Effect.ROLLS:
        changes[Effect.STEERS] = old.steering != new.steering
    for effect, is_so in changes.items():
        if is_so != (effect == row.effect):
            yield f"{effect.name}: {is_so}"
    more = new.replica_sets - old.replica_sets
    # A fleet that is made in pause has no ReplicaSet until it goes on.
    expected = 1 if row.effect == Effect.ROLLS or not old.replica_sets else 0
    if more != expected:
        yield f"{more} more ReplicaSets"
    names = sorted(old.others.keys() | new.others.keys())
    touched = tuple(name for name in names if old.others.get(name) != new.others.get(name))
    if touched != tuple(sorted(row.children)):
        yield f"touches {touched or 'no child'}"
