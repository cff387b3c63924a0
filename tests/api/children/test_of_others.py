"""An object of somebody else that has a child's name is left alone, and told of."""

from typing import Any, Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.every_child import EVERY_CHILD, KINDS
from tests.live_fleet import LiveFleet

pytestmark = pytest.mark.long

FOREIGN: Final[dict[str, Object]] = {
    "ConfigMap": {"data": {"other.json": "mine"}},
    "Deployment": {
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web"}]},
            },
        }
    },
    "Discovery": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
    "NetworkPolicy": {"spec": {"podSelector": {"matchLabels": {"app": "web"}}}},
    "PodDisruptionBudget": {
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    },
    "Service": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_somebody_else_is_left_alone(
    api_server: ApiServer, namespace: str, kind: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    path = fleet.child_path(kind)
    collection, _, name = path.rpartition("/")
    fleet.client.post(collection, {"metadata": {"name": name}, **FOREIGN[kind]})
    fleet.create(EVERY_CHILD)
    told = fleet.wait_for("Accepted", "False", "NameTaken")
    real = "Service" if kind == "Discovery" else kind
    assert told.startswith(f"{real} {name} exists already and is not this fleet's: rename the")
    assert fleet.condition("Stalled")["status"] == "True"
    others = [each for each in KINDS if each != kind]
    fleet.wait(lambda: all(map(fleet.has_child, others)), "the other children are there")
    kept = fleet.client.get(path)
    for part in FOREIGN[kind]:
        assert _only(kept[part], FOREIGN[kind][part])
    for part in ("labels", "annotations", "ownerReferences"):
        assert "sampler.dev" not in str(kept["metadata"].get(part))
    assert {each["manager"] for each in kept["metadata"]["managedFields"]}.isdisjoint(
        {"sampler-operator"}
    )
    fleet.client.delete(path, {"propagationPolicy": "Background"})
    fleet.wait_for("Accepted")
    fleet.settle()
    owner = fleet.child(kind)["metadata"]["ownerReferences"][0]
    assert owner["uid"] == fleet.get()["metadata"]["uid"]


def _only(kept: Any, made: Any) -> bool:
    """Every part that was made is there and, where parts have names, no other of ours."""
    if isinstance(made, dict):
        is_same = all(name in kept and _only(kept[name], made[name]) for name in made)
        return is_same and "sampler.dev" not in str(kept)
    if isinstance(made, list):
        return len(kept) == len(made) and all(map(_only, kept, made))
    return bool(kept == made)
