"""``podTemplateOverrides``: the strategic merge of Kubernetes."""

import copy
from typing import Any

import pytest
from tests.spec_cases import MINIMAL, changed, manifest

from sampler_operator import names
from sampler_operator.pod import LAYOUTS
from sampler_operator.pod.overrides import merged
from sampler_operator.spec.parse import parse

SERVER = {"name": "server", "image": "a", "env": [{"name": "A", "value": "1"}]}
FETCH = {"name": "fetch"}
DATA = {"name": "data", "containerPort": 8000, "protocol": "TCP"}

CASES: dict[str, tuple[Any, Any, Any]] = {
    "no override": ({"a": 1}, {}, {"a": 1}),
    "a value is replaced": ({"a": 1}, {"a": 2}, {"a": 2}),
    "a field is added": ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    "maps merge": ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
    "null deletes": ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    "null deletes deep inside": ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
    "null of what is not there": ({"a": 1}, {"b": None}, {"a": 1}),
    "nulls inside what is added": ({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
    "a map takes the place of a value": ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
    "a value takes the place of a map": ({"a": {"b": 2}}, {"a": 1}, {"a": 1}),
    # Lists that merge
    "a container merges by name": (
        {"containers": [FETCH, SERVER]},
        {"containers": [{"name": "server", "image": "b"}]},
        {"containers": [FETCH, SERVER | {"image": "b"}]},
    ),
    "a container is added": (
        {"containers": [SERVER]},
        {"containers": [{"name": "proxy", "image": "p"}]},
        {"containers": [SERVER, {"name": "proxy", "image": "p"}]},
    ),
    "a container without a name is added, for the API server to judge": (
        {"containers": [SERVER]},
        {"containers": [{"image": "p"}]},
        {"containers": [SERVER, {"image": "p"}]},
    ),
    "variables merge by name, inside a container": (
        {"containers": [SERVER]},
        {"containers": [{"name": "server", "env": [{"name": "B", "value": "2"}]}]},
        {"containers": [SERVER | {"env": [*SERVER["env"], {"name": "B", "value": "2"}]}]},
    ),
    "a variable gets another source": (
        {"env": [{"name": "A", "value": "1"}]},
        {"env": [{"name": "A", "value": None, "valueFrom": {"fieldRef": {}}}]},
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]},
    ),
    "mounts merge by path": (
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}, {"mountPath": "/b", "name": "y"}]},
        {"volumeMounts": [{"mountPath": "/b", "name": "z"}]},
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}, {"mountPath": "/b", "name": "z"}]},
    ),
    "ports merge by number": (
        {"ports": [DATA]},
        {"ports": [{"containerPort": 8000, "hostPort": 8000}, {"containerPort": 22}]},
        {"ports": [DATA | {"hostPort": 8000}, {"containerPort": 22}]},
    ),
    "volumes merge by name": (
        {"volumes": [{"name": "cache", "emptyDir": {}}]},
        {"volumes": [{"name": "cache", "emptyDir": None, "ephemeral": {}}]},
        {"volumes": [{"name": "cache", "ephemeral": {}}]},
    ),
    "pull secrets merge by name": (
        {"imagePullSecrets": [{"name": "a"}]},
        {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]},
        {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]},
    ),
    "constraints merge by topology": (
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}]},
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]},
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]},
    ),
    "an empty list changes nothing in a list that merges": (
        {"volumes": [{"name": "a"}]},
        {"volumes": []},
        {"volumes": [{"name": "a"}]},
    ),
    # Lists that do not
    "tolerations are replaced": (
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "b", "value": None}]},
        {"tolerations": [{"key": "b"}]},
    ),
    "words of a command line are replaced": (
        {"args": ["a", "b"]},
        {"args": ["c"]},
        {"args": ["c"]},
    ),
    "an empty list empties a list that is replaced": ({"args": ["a"]}, {"args": []}, {"args": []}),
    # Directives
    "delete takes an entry out": (
        {"containers": [FETCH, SERVER]},
        {"containers": [{"name": "fetch", "$patch": "delete"}]},
        {"containers": [SERVER]},
    ),
    "delete of an entry that is not there": (
        {"containers": [SERVER]},
        {"containers": [{"name": "fetch", "$patch": "delete"}]},
        {"containers": [SERVER]},
    ),
    "delete in a list that is not there": (
        {},
        {"initContainers": [{"name": "fetch", "$patch": "delete"}]},
        {"initContainers": []},
    ),
    "delete takes a map out": (
        {"a": {"b": 1}, "c": 2},
        {"a": {"$patch": "delete"}},
        {"c": 2},
    ),
    "delete of a map that is not there": ({"c": 2}, {"a": {"$patch": "delete"}}, {"c": 2}),
    "replace puts a map in the place of another": (
        {"securityContext": {"runAsUser": 1, "fsGroup": 2}},
        {"securityContext": {"$patch": "replace", "runAsUser": 3, "fsGroup": None}},
        {"securityContext": {"runAsUser": 3}},
    ),
    "replace of a map that is not there": (
        {},
        {"securityContext": {"$patch": "replace", "runAsUser": 3}},
        {"securityContext": {"runAsUser": 3}},
    ),
    "replace puts a list in the place of another": (
        {"volumes": [{"name": "a"}, {"name": "b"}]},
        {"volumes": [{"$patch": "replace"}, {"name": "b", "emptyDir": {}}]},
        {"volumes": [{"name": "b", "emptyDir": {}}]},
    ),
    "replace at an entry replaces the whole list": (
        {"volumes": [{"name": "a"}]},
        {"volumes": [{"name": "b", "$patch": "replace"}]},
        {"volumes": [{"name": "b"}]},
    ),
    "merge is what happens anyway": (
        {"a": {"b": 1}},
        {"a": {"$patch": "merge", "c": 2}},
        {"a": {"b": 1, "c": 2}},
    ),
    "an unknown directive is left for the API server to refuse": (
        {"a": {"b": 1}},
        {"a": {"$patch": "remove"}},
        {"a": {"b": 1, "$patch": "remove"}},
    ),
}


@pytest.mark.parametrize(("base", "patch", "expected"), CASES.values(), ids=CASES.keys())
def test_an_override_is_merged(base: Any, patch: Any, expected: Any) -> None:
    before = copy.deepcopy((base, patch))
    assert merged(base, patch) == expected
    assert (base, patch) == before, "merging changed what it was given"


def template(overrides: dict[str, Any]) -> dict[str, Any]:
    spec = changed(MINIMAL, {"podTemplateOverrides": overrides})
    return LAYOUTS[1](parse(manifest(spec)), "acme/torch:1")


OWN_LABELS = names.labels(names.Key("default", "fleet"))

LABELS: dict[str, dict[str, Any]] = {
    "changing them": {"metadata": {"labels": {names.FLEET_LABEL: "other", names.MANAGED_BY: "me"}}},
    "a null for one of them": {"metadata": {"labels": {names.FLEET_LABEL: None}}},
    "a null for all labels": {"metadata": {"labels": None}},
    "a null for the metadata": {"metadata": None},
    "replacing the metadata": {"metadata": {"$patch": "replace", "annotations": {"a": "b"}}},
}


@pytest.mark.parametrize("overrides", LABELS.values(), ids=LABELS.keys())
def test_the_labels_of_the_selector_stay_after(overrides: dict[str, Any]) -> None:
    assert OWN_LABELS.items() <= template(overrides)["metadata"]["labels"].items()


def test_other_labels_can_be_added_and_taken_away() -> None:
    made = template({"metadata": {"labels": {"team": "a"}}})
    assert made["metadata"]["labels"] == OWN_LABELS | {"team": "a"}


def test_the_container_of_the_server_can_be_changed_by_its_name() -> None:
    made = template({"spec": {"containers": [{"name": names.CONTAINER, "stdin": True}]}})
    plain = template({})
    [server] = made["spec"]["containers"]
    assert server == plain["spec"]["containers"][0] | {"stdin": True}


def test_the_spec_keeps_its_overrides_as_they_are() -> None:
    overrides = {"metadata": {"labels": {"team": "a"}}, "spec": {"containers": []}}
    sd = parse(manifest(changed(MINIMAL, {"podTemplateOverrides": overrides})))
    LAYOUTS[1](sd, "acme/torch:1")
    assert sd.spec.pod_template_overrides is not None
    assert sd.spec.pod_template_overrides.as_patch() == {
        "metadata": {"labels": {"team": "a"}},
        "spec": {"containers": []},
    }
