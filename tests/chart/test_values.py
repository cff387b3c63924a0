"""Values: each is described, does something, and a wrong one is refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.generate_chart import leaves
from tests.rendered_chart import (
    CHART,
    EVERYTHING_ON,
    RenderError,
    default_values,
    find,
    nested,
    of_kind,
    render,
    value_schema,
)

LEAVES = dict(leaves(value_schema()))
FOR_PARENTS = {"global", "enabled"}
"""Nothing in this chart reads them; a parent chart could not set them if they were unknown."""


def paths(values: Any, path: str = "") -> set[str]:
    """Every value that is set, by the schema's leaves."""
    if path in LEAVES:
        return {path}
    assert isinstance(values, dict), f"{path} is no value of the chart"
    return {
        leaf
        for name, part in values.items()
        for leaf in paths(part, f"{path}.{name}" if path else name)
    }


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``values`` with the one at ``path`` replaced."""
    name, _, rest = path.partition(".")
    return {**values, name: changed(values[name], rest, value) if rest else value}


def value_of(values: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def test_templates_use_the_values_of_the_schema_and_no_others() -> None:
    used: set[str] = set()
    for template in (CHART / "templates").rglob("*.*"):
        used |= set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", template.read_text()))
    known = {path.split(".")[0] for path in LEAVES}
    known |= {path[: path.rindex(".")] for path in LEAVES if "." in path} | set(LEAVES)
    assert used - known == set()
    # A template may take a whole group: `with .Values.metrics.podMonitor`.
    unused = {
        path
        for path in LEAVES
        if not any(path == each or path.startswith(f"{each}.") for each in used)
    }
    assert unused == FOR_PARENTS


def test_values_yaml_is_the_schema_s_defaults() -> None:
    values = default_values()
    assert paths(values) == set(LEAVES)
    assert {path: value_of(values, path) for path in LEAVES} == {
        path: part["default"] for path, part in LEAVES.items()
    }


def nodes(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [each for part in schema.get("properties", {}).values() for each in nodes(part)]
    return [schema, *inner]


def test_every_value_is_described_and_unknown_ones_are_closed_out() -> None:
    schema = value_schema()
    for node in nodes(schema):
        if node is not schema:
            assert node["description"].endswith("."), node
        if "properties" in node and "items" not in node:
            assert node["additionalProperties"] is False, node["description"]


def test_everything_on_has_an_example_of_every_value() -> None:
    assert paths(EVERYTHING_ON) == set(LEAVES) - FOR_PARENTS


# Where everything is on, these are hidden by another value; so it takes this one.
HIDDEN_BY: dict[str, tuple[str, Any]] = {
    "image.tag": ("image.digest", ""),
    "nameOverride": ("fullnameOverride", ""),
    "rbac.aggregate": ("watchNamespaces", []),
}
MAY_BE_NULL = [path for path, part in LEAVES.items() if part["default"] in ({}, [], "")]


@pytest.mark.parametrize("path", sorted(set(LEAVES) - FOR_PARENTS))
def test_a_value_alone_changes_what_is_rendered(path: str) -> None:
    base = changed(EVERYTHING_ON, *HIDDEN_BY[path]) if path in HIDDEN_BY else EVERYTHING_ON
    on, default = value_of(base, path), LEAVES[path]["default"]
    other = not on if on == default else default
    assert render(changed(base, path, other)) != render(base)


@pytest.mark.parametrize("path", sorted(set(MAY_BE_NULL) - FOR_PARENTS))
def test_a_null_is_as_good_as_nothing(path: str) -> None:
    default = LEAVES[path]["default"]
    assert render(nested(path, None)) == render(nested(path, default))


WRONG = [
    ("an unknown value", {"replicas": 2}, "replicas"),
    ("a misspelt value of a group", nested("image.repo", "x"), "repo"),
    ("a misspelt toggle", nested("metrics.podMonitor.enable", True), "enable"),
    ("one namespace that is no list", {"watchNamespaces": "team-a"}, "watchNamespaces"),
    ("a namespace in capitals", {"watchNamespaces": ["Team"]}, "watchNamespaces"),
    ("a namespace twice", {"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    ("a digest that is a tag", nested("image.digest", "latest"), "digest"),
    ("a port that needs root", nested("metrics.port", 80), "port"),
    ("a log level in capitals", {"logLevel": "INFO"}, "logLevel"),
    ("a pull secret as text", {"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
    ("no workers", {"workers": 0}, "workers"),
]


@pytest.mark.parametrize(
    ("values", "named"), [(values, named) for _, values, named in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(RenderError, match=named):
        render(values)


def test_the_chart_can_be_a_part_of_another(tmp_path: Path) -> None:
    parent = {"apiVersion": "v2", "name": "platform", "version": "1.0.0"}
    part = {"name": "sampler-operator", "version": "*", "condition": "sampler-operator.enabled"}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump({**parent, "dependencies": [part]}))
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "sampler-operator").symlink_to(CHART)
    values = {"global": {"domain": "example.com"}, "sampler-operator": {"workers": 4}}
    objects = render(values, chart=tmp_path, release="platform")
    [container] = find(objects, "Deployment", "platform-sampler-operator")["spec"]["template"][
        "spec"
    ]["containers"]
    assert "--workers=4" in container["args"]
    off = {**values, "sampler-operator": {"enabled": False}}
    assert of_kind(render(off, chart=tmp_path, release="platform"), "Deployment") == []
