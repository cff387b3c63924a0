"""Which observed objects already say what a manifest says. Observed values are written as a real
API server returns them.
"""

from typing import Any

import pytest

from sampler_operator.objects import contains, digest, with_digest

Case = tuple[Any, Any]


def container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "server", **fields}]}


def in_service(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"ports": list(ports)}}


def in_policy(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"ingress": [{"from": [{"podSelector": {}}], "ports": list(ports)}]}}


def limits(**amounts: Any) -> dict[str, Any]:
    return container(resources={"limits": amounts})


ZONE = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
ZONE_IF_POSSIBLE = ZONE | {"whenUnsatisfiable": "ScheduleAnyway"}
DATA = {"name": "data", "port": 8000, "targetPort": "data", "protocol": "TCP"}
A, B = {"name": "A", "value": "1"}, {"name": "B", "value": "2"}

SAID: dict[str, Case] = {
    "an object says itself": ({"spec": {"replicas": 3}}, {"spec": {"replicas": 3}}),
    "what others added does not count": ({"a": 1, "status": {}}, {"a": 1}),
    "nothing is always said": ({"a": 1}, {}),
    # Values that the API server leaves out, or writes in its own way
    "false may be left out": ({}, {"paused": False}),
    "zero may be left out": ({}, {"minReadySeconds": 0}),
    "empty text may be left out": ({"env": [{"name": "A"}]}, {"env": [{"name": "A", "value": ""}]}),
    "an empty list may be left out": ({}, {"tolerations": []}),
    "an empty map may be left out": ({}, {"nodeSelector": {}}),
    "a map of zero values may be left out": ({}, {"emptyDir": {"medium": "", "x": None}}),
    "a null stands for what is not there": (
        {"type": "Recreate"},
        {"type": "Recreate", "rollingUpdate": None},
    ),
    "a null of the server is an empty list": ({"args": None}, {"args": []}),
    "a null of the server is an empty map": ({"securityContext": None}, {"securityContext": {}}),
    "an empty source is a source": ({"emptyDir": {}}, {"emptyDir": {}}),
    "whole numbers are numbers": ({"seconds": 60}, {"seconds": 60.0}),
    "a number of pods": ({"maxSurge": 1}, {"maxSurge": 1}),
    "a share of pods": ({"maxSurge": "25%"}, {"maxSurge": "25%"}),
    "defaults are added to a probe": (
        {"httpGet": {"path": "/livez", "port": "manage", "scheme": "HTTP"}, "successThreshold": 1},
        {"httpGet": {"path": "/livez", "port": "manage"}},
    ),
    "defaults are added to a volume": (
        {"volumes": [{"name": "tls", "secret": {"secretName": "a", "defaultMode": 420}}]},
        {"volumes": [{"name": "tls", "secret": {"secretName": "a"}}]},
    ),
    "defaults are added to a field reference": (
        {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        {"fieldRef": {"fieldPath": "metadata.name"}},
    ),
    # Quantities
    "a thousand thousandths are one": (limits(cpu="1"), limits(cpu="1000m")),
    "half a CPU in thousandths": (limits(cpu="500m"), limits(cpu="0.5")),
    "an amount given as a number": (limits(cpu="4"), limits(cpu=4)),
    "mebibytes and gibibytes": (limits(memory="64Gi"), limits(memory="65536Mi")),
    "bytes and gibibytes": (limits(memory="1Gi"), limits(memory="1073741824")),
    "an exponent": (limits(memory="10G"), limits(memory="1e10")),
    "a device": (limits(**{"nvidia.com/gpu": "2"}), limits(**{"nvidia.com/gpu": "2"})),
    "a size limit": ({"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1024Mi"}}),
    "a divisor is an amount": (
        {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
        {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1024Ki"}},
    ),
    "the storage of a claim": (
        {"spec": {"resources": {"requests": {"storage": "1Ti"}}}},
        {"spec": {"resources": {"requests": {"storage": "1024Gi"}}}},
    ),
    "the overhead of a pod": ({"overhead": {"cpu": "250m"}}, {"overhead": {"cpu": 0.25}}),
    # Lists that are maps
    "containers that an injector added": (
        {"containers": [{"name": "proxy"}, {"name": "server", "image": "a"}]},
        container(image="a"),
    ),
    "variables in another order": ({"env": [B, A]}, {"env": [A, B]}),
    "mounts that were added": (
        {"volumeMounts": [{"mountPath": "/b", "name": "b"}, {"mountPath": "/a", "name": "a"}]},
        {"volumeMounts": [{"mountPath": "/a", "name": "a"}]},
    ),
    "ports of a container with their defaults": (
        container(ports=[{"containerPort": n, "protocol": "TCP"} for n in (9, 8000)]),
        container(ports=[{"containerPort": 8000}]),
    ),
    "a port of a container for each protocol": (
        container(ports=[{"containerPort": 1, "protocol": p, "name": p} for p in ("UDP", "TCP")]),
        container(ports=[{"containerPort": 1, "name": "TCP"}]),
    ),
    "ports of a Service with node ports": (
        in_service({"name": "x", "port": 1}, DATA | {"nodePort": 30000}),
        in_service(DATA),
    ),
    "ports without names": (in_service({"port": 2}, {"port": 1}), in_service({"port": 1})),
    "two constraints about one topology": (
        {"topologySpreadConstraints": [ZONE_IF_POSSIBLE, ZONE]},
        {"topologySpreadConstraints": [ZONE, ZONE_IF_POSSIBLE]},
    ),
    "another owner": (
        {"ownerReferences": [{"uid": "2"}, {"uid": "1", "controller": True}]},
        {"ownerReferences": [{"uid": "1", "controller": True}]},
    ),
    "others may fill an empty keyed list": ({"env": [A]}, {"env": []}),
    # Lists that are not
    "words of a command line": ({"args": ["a", ""]}, {"args": ["a", ""]}),
    "a tuple is a list": ({"args": ["a"]}, {"args": ("a",)}),
    "defaults inside an atomic list": (
        {"items": [{"key": "a", "path": "b", "mode": 420}]},
        {"items": [{"key": "a", "path": "b"}]},
    ),
    "ports of a policy": (
        in_policy({"port": 8000, "protocol": "TCP"}),
        in_policy({"port": 8000, "protocol": "TCP"}),
    ),
}

NOT_SAID: dict[str, Case] = {
    "another value": ({"replicas": 2}, {"replicas": 3}),
    "a field that is missing": ({}, {"replicas": 3}),
    "a field that was reset": ({"paused": True}, {"paused": False}),
    "text that was given": ({"value": "1"}, {"value": ""}),
    "a map that is no map": ({"spec": "a"}, {"spec": {"a": 1}}),
    "a list that is no list": ({"args": "a"}, {"args": ["a"]}),
    "what should be gone is there": (
        {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}},
        {"type": "Recreate", "rollingUpdate": None},
    ),
    "one is not true": ({"x": 1}, {"x": True}),
    "zero is not false": ({"x": 0}, {"x": False}),
    "text is no number": ({"x": "1"}, {"x": 1}),
    "a share is no number of pods": ({"maxSurge": "1%"}, {"maxSurge": 1}),
    "amounts that differ": (limits(cpu="1"), limits(cpu="1001m")),
    "decimal and binary units": (limits(memory="1G"), limits(memory="1Gi")),
    "an amount that is none": (limits(cpu="1"), limits(cpu="many")),
    "an amount that is not a number": (limits(cpu="1"), limits(cpu="sNaN")),
    "an amount that is true": (limits(cpu="1"), limits(cpu=True)),
    "an amount that was taken out": (limits(cpu="1"), limits(cpu="1", memory="1Gi")),
    "amounts elsewhere are text": ({"value": "1000m"}, {"value": "1"}),
    "a label whose value is empty was taken out": (
        {"nodeSelector": {"a": "1"}},
        {"nodeSelector": {"a": "1", "gpu": ""}},
    ),
    "a selector with a further word": (
        {"selector": {"fleet": "a", "track": "canary"}},
        {"selector": {"fleet": "a"}},
    ),
    "a selector with further expressions": (
        {"podSelector": {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b"}]}},
        {"podSelector": {"matchLabels": {"a": "1"}}},
    ),
    "a selector of more nodes' labels": (
        {"nodeSelector": {"a": "1", "b": "2"}},
        {"nodeSelector": {"a": "1"}},
    ),
    "an annotation whose value is empty was taken out": ({}, {"annotations": {"a": ""}, "x": 1}),
    "a container that is missing": ({"containers": [{"name": "proxy"}]}, container(image="a")),
    "a container that was changed": (container(image="b"), container(image="a")),
    "a variable that was changed": ({"env": [A | {"value": "2"}]}, {"env": [A]}),
    "a port of a container with another name": (
        container(ports=[{"containerPort": 8000, "name": "b"}]),
        container(ports=[{"containerPort": 8000, "name": "a"}]),
    ),
    "a port of a container for another protocol": (
        container(ports=[{"containerPort": 8000, "protocol": "UDP"}]),
        container(ports=[{"containerPort": 8000}]),
    ),
    "a port of a Service that leads elsewhere": (
        in_service(DATA | {"targetPort": 9000}),
        in_service(DATA),
    ),
    "one of two constraints about one topology": (
        {"topologySpreadConstraints": [ZONE]},
        {"topologySpreadConstraints": [ZONE, ZONE_IF_POSSIBLE]},
    ),
    "an atomic list with one more": ({"args": ["a", "b"]}, {"args": ["a"]}),
    "an atomic list with one less": ({"drop": []}, {"drop": ["ALL"]}),
    "an atomic list in another order": ({"args": ["b", "a"]}, {"args": ["a", "b"]}),
    "a toleration that was added": (
        {"tolerations": [{"key": "a"}, {"key": "b"}]},
        {"tolerations": [{"key": "a"}]},
    ),
    "a port that was opened in a policy": (
        in_policy({"port": 8000, "protocol": "TCP"}, {"port": 22, "protocol": "TCP"}),
        in_policy({"port": 8000, "protocol": "TCP"}),
    ),
    "an owner that was taken out": (
        {"ownerReferences": [{"uid": "2"}]},
        {"ownerReferences": [{"uid": "1"}]},
    ),
    "entries of a keyed list without a key": ({"volumes": []}, {"volumes": [{"emptyDir": {}}]}),
    "a key that is none": ({"volumes": [{"name": ["a"]}]}, {"volumes": [{"name": "a"}]}),
}


@pytest.mark.parametrize(("observed", "desired"), SAID.values(), ids=SAID.keys())
def test_it_says_so_already(observed: Any, desired: Any) -> None:
    assert contains(observed, desired)


@pytest.mark.parametrize(("observed", "desired"), NOT_SAID.values(), ids=NOT_SAID.keys())
def test_it_must_be_written(observed: Any, desired: Any) -> None:
    assert not contains(observed, desired)


def test_what_was_taken_out_of_a_manifest_is_seen_by_its_digest() -> None:
    before = {"metadata": {"name": "a"}, "spec": {"paused": True, "env": [A, B]}}
    after = {"metadata": {"name": "a"}, "spec": {"env": [A]}}
    assert contains(before, after)
    assert not contains(with_digest(before), with_digest(after))


def test_a_manifest_with_its_digest_keeps_its_annotations_and_is_a_copy() -> None:
    manifest = {"metadata": {"name": "a", "annotations": {"x": "y"}}}
    made = with_digest(manifest)
    assert made["metadata"]["annotations"]["x"] == "y"
    assert manifest == {"metadata": {"name": "a", "annotations": {"x": "y"}}}


def test_a_digest_does_not_depend_on_the_order_of_names_but_on_that_of_lists() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
