"""Each field of the spec does something on one machine, or is named as one that does not."""

import re
from typing import Any

import pytest
from tests.spec_cases import MINIMAL, changed, manifest
from tests.spec_effects import CONFIG_MAP, EFFECTS, Effect, SpecEffect

from sampler_operator.local.idle import IDLE, idle_fields, used_of_pod
from sampler_operator.objects import Manifest
from sampler_operator.pod import LAYOUTS, chosen_template
from sampler_operator.schema.defaults import with_defaults
from sampler_operator.spec.parse import parse

BY_THE_RULES_ALONE = {"lora.publish"}
"""It says how many adapters may be declared."""


def used(part: Any, tree: Any) -> Any:
    """What of ``part`` a pod of this machine looks at."""
    if isinstance(tree, tuple):
        return [used(each, tree[0]) for each in part]
    if tree is None or not isinstance(part, dict):
        return part
    return {name: used(value, tree[name]) for name, value in part.items() if name in tree}


def used_template(given: Manifest) -> Any:
    sd = parse(given)
    template = chosen_template(sd, {}, "local", LAYOUTS).manifest
    return used(template["spec"], used_of_pod(sd.spec.gpu.resource_name))


def is_named(row: SpecEffect) -> bool:
    path = row.path.replace("[]", "") + "."
    given = (*idle_fields(row.before), *idle_fields(row.after))
    named = {re.sub(r"\[\w+\]", "", field) + "." for field in given}
    return any(path.startswith(field) or field.startswith(path) for field in named)


@pytest.mark.parametrize("row", EFFECTS, ids=lambda row: row.path)
def test_a_field_is_used_or_named(row: SpecEffect) -> None:
    does_something = (
        used_template(row.before) != used_template(row.after)
        or row.effect in (Effect.SCALES, Effect.STEERS)
        or CONFIG_MAP in row.children
        or row.path in BY_THE_RULES_ALONE
    )
    assert does_something or is_named(row), "dropped in silence"


def test_every_idle_field_is_one_of_the_schema() -> None:
    paths = {row.path for row in EFFECTS}
    assert [
        f for f in IDLE if not any(p == f or p.startswith((f"{f}.", f"{f}[")) for p in paths)
    ] == []


def container(**parts: Any) -> Manifest:
    return {"spec": {"containers": [{"name": "server", **parts}]}}


OVERRIDES: dict[str, tuple[Manifest, list[str]]] = {
    "what the pod of a machine uses is not named": (
        {
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "volumes": [{"name": "a", "hostPath": {"path": "/a", "type": "Directory"}}],
                **container(
                    args=["serve"],
                    env=[{"name": "A", "value": "1"}],
                    volumeMounts=[{"name": "a", "mountPath": "/a"}],
                    resources={"limits": {"nvidia.com/gpu": 1}},
                    readinessProbe={"httpGet": {"path": "/", "port": 1}, "periodSeconds": 1},
                )["spec"],
            }
        },
        [],
    ),
    "the network of a node": ({"spec": {"hostNetwork": True}}, ["spec.hostNetwork"]),
    "a choice of nodes": ({"spec": {"nodeSelector": {"a": "b"}}}, ["spec.nodeSelector"]),
    "what is taken away is named too": ({"spec": {"dnsPolicy": None}}, ["spec.dnsPolicy"]),
    "labels": ({"metadata": {"labels": {"a": "b"}}}, ["metadata"]),
    "memory": (
        container(resources={"limits": {"memory": "1Gi"}}),
        ["spec.containers[server].resources.limits.memory"],
    ),
    "a probe that runs a command": (
        container(livenessProbe={"exec": {"command": ["true"]}}),
        ["spec.containers[server].livenessProbe.exec"],
    ),
    "a directive is none of the pod's fields": (
        {"spec": {"$patch": "merge", "hostPID": True}},
        ["spec.hostPID"],
    ),
    "a mount that only reads": (
        container(volumeMounts=[{"name": "a", "mountPath": "/a", "readOnly": True}]),
        ["spec.containers[server].volumeMounts[a].readOnly"],
    ),
}


@pytest.mark.parametrize(("overrides", "named"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_overrides_that_do_nothing_here_are_named(overrides: Manifest, named: list[str]) -> None:
    given = manifest(changed(MINIMAL, {"podTemplateOverrides": overrides}))
    assert list(idle_fields(given)) == [f"podTemplateOverrides.{field}" for field in named]


def test_defaults_are_filled_in_where_their_object_is_and_nulls_are_left_out() -> None:
    given = manifest(changed(MINIMAL, {"replicas": None, "lora": {"volumes": []}}))
    spec = with_defaults(given)["spec"]
    assert (spec["replicas"], spec["tensorParallelSize"]) == (1, 1)
    assert spec["lora"]["maxRank"] == 16
    assert "auth" not in spec
    assert given["spec"]["replicas"] is None
    assert parse(with_defaults(given)).spec == parse(given).spec
