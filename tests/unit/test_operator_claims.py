"""Claims that several replicas share: which there are, and what is told of them."""

from typing import Any

import pytest
from tests.kube_objects import fleet

from sampler_operator.claims import AccessModes, shared_claims, unshareable
from sampler_operator.spec.parse import parse

ONE, MANY, READ = ("ReadWriteOnce",), ("ReadWriteMany",), ("ReadOnlyMany",)


def claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name}}


CACHED = {"uri": "hf://a/b", "cache": {"volume": claim("cache")}}
LORA = {
    "volumes": [
        {"name": "scratch", "mountPath": "/scratch", "emptyDir": {}},
        {"name": "loras", "mountPath": "/loras", **claim("loras")},
    ]
}


@pytest.mark.parametrize(
    ("spec", "claims"),
    [
        pytest.param({}, {}, id="a fleet without claims"),
        pytest.param({"model": CACHED}, {"model.cache.volume": "cache"}, id="a cache"),
        pytest.param(
            {"model": CACHED, "engine": {"torch": None, "sim": {}}},
            {},
            id="a cache of an engine without weights",
        ),
        pytest.param(
            {"model": {**CACHED, "uri": "file:///a"}}, {}, id="a cache that nothing is loaded into"
        ),
        pytest.param(
            {"model": {"uri": "pvc://weights/a"}, "engine": {"torch": None, "sim": {}}},
            {},
            id="weights that nobody reads",
        ),
        pytest.param(
            {"model": {"uri": "pvc://weights/a/b"}}, {"model.uri": "weights"}, id="weights"
        ),
        pytest.param({"lora": LORA}, {"lora.volumes[1]": "loras"}, id="adapters"),
    ],
)
def test_the_claims_of_a_fleet_go_by_field(spec: dict[str, Any], claims: dict[str, str]) -> None:
    assert shared_claims(parse(fleet(spec))) == claims


@pytest.mark.parametrize(
    ("modes", "replicas", "told"),
    [
        pytest.param({"cache": ONE}, 1, None, id="one replica shares with nobody"),
        pytest.param({"cache": MANY}, 2, None, id="a claim that many may write"),
        pytest.param({"cache": (*ONE, *READ)}, 2, None, id="a claim that many may read"),
        pytest.param({}, 2, None, id="a claim that nobody knows is not judged"),
        pytest.param(
            {"cache": ONE},
            2,
            "spec.model.cache.volume: claim cache is ReadWriteOnce: 2 replicas can share it on one"
            " node alone; use a claim that is ReadWriteMany or ReadOnlyMany",
            id="a claim of one node",
        ),
        pytest.param(
            {"cache": ("ReadWriteOncePod",)}, 2, "ReadWriteOncePod", id="a claim of one pod"
        ),
    ],
)
def test_what_is_told_of_a_claim(
    modes: dict[str, AccessModes], replicas: int, told: str | None
) -> None:
    found = unshareable({"model.cache.volume": "cache"}, modes, replicas)
    if told is None:
        assert found is None
    else:
        assert told in (found or "")
