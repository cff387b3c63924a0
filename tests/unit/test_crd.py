"""The CRD is what the models say, and what the examples and the committed file say too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.spec_cases import VALID

from sampler_operator.schema import crd
from sampler_operator.schema.crd import crd_yaml
from sampler_operator.spec.parse import parse

MANIFESTS = Path(__file__).parents[2] / "manifests"
EXAMPLES = [
    path
    for path in sorted((MANIFESTS / "examples").glob("*.yaml"))
    if "kind: SamplerDeployment" in path.read_text()
]

Schema = dict[str, Any]
VERSION: Schema = crd()["spec"]["versions"][0]
OBJECT: Schema = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "[*]")):
        if key in schema:
            yield from nodes(schema[key], path + mark)


SPEC = dict(nodes(OBJECT["properties"]["spec"]))
STATUS = dict(nodes(OBJECT["properties"]["status"]))
ALL = SPEC | {f"status{path}": node for path, node in STATUS.items()}


def test_the_committed_file_is_what_make_generate_writes() -> None:
    assert (MANIFESTS / "crd" / "samplerdeployments.yaml").read_text() == crd_yaml()


def test_every_field_has_a_description() -> None:
    fields = {path for path in ALL if not path.endswith(("]", "]]"))}
    assert {path for path in fields if not ALL[path].get("description", "").endswith(".")} == set()
    assert len(fields) > 100


def test_every_list_map_and_text_is_bounded() -> None:
    """The API server reckons what rules cost from these bounds."""
    bounds = {"array": "maxItems", "string": "maxLength"}
    unbounded = {
        path
        for path, node in ALL.items()
        if (bound := bounds.get(node.get("type", "")))
        and not {bound, "enum", "format"} & node.keys()
    }
    maps = {path for path, node in ALL.items() if "additionalProperties" in node}
    assert unbounded == set()
    assert {path for path in maps if "maxProperties" not in ALL[path]} == set()


def test_only_objects_of_kubernetes_own_keep_unknown_fields() -> None:
    free = {path for path, node in ALL.items() if "x-kubernetes-preserve-unknown-fields" in node}
    assert free == {
        ".affinity",
        ".topologySpreadConstraints[]",
        ".envFrom[]",
        ".env[].valueFrom",
        ".lora.volumes[].csi",
        ".model.cache.volume.csi",
        ".networkPolicy.from[]",
        ".podSecurityContext",
        ".podTemplateOverrides.metadata",
        ".podTemplateOverrides.spec",
    }


def test_lists_are_merged_by_key_where_two_may_write_them() -> None:
    keyed = {
        path: node["x-kubernetes-list-map-keys"]
        for path, node in ALL.items()
        if "x-kubernetes-list-map-keys" in node
    }
    assert keyed == {
        ".env": ["name"],
        ".lora.adapters": ["name"],
        ".lora.volumes": ["name"],
        "status.conditions": ["type"],
    }


def test_a_default_is_no_member_of_a_choice() -> None:
    """A later apply that names another member would be merged with it."""
    chosen = [
        node for node in ALL.values() if "exactly one" in str(node.get("x-kubernetes-validations"))
    ]
    assert len(chosen) == 3
    assert all("default" not in node for node in chosen)
    assert all(
        "default" not in part
        for node in chosen
        for name, part in node["properties"].items()
        if part.get("type") == "object"
    )


def test_the_valid_specs_give_every_field() -> None:
    """So that what is held for them is held for every field."""

    def given(value: object, schema: Schema, path: str) -> Iterator[str]:
        yield path
        if isinstance(value, dict):
            for name, part in schema.get("properties", {}).items():
                if name in value:
                    yield from given(value[name], part, f"{path}.{name}")
        for part in value if isinstance(value, list) else ():
            yield from given(part, schema["items"], f"{path}[]")

    spec = OBJECT["properties"]["spec"]
    seen = {path for each in VALID.values() for path in given(each, spec, "")}
    # The sources of this volume are those of lora.volumes.
    twice = ".model.cache.volume."
    wanted = {path for path in SPEC if not path.endswith("[*]") and not path.startswith(twice)}
    assert wanted - seen == set()


def test_columns_show_what_people_ask_first() -> None:
    columns = VERSION["additionalPrinterColumns"]
    plain = [each["name"] for each in columns if "priority" not in each]
    wide = [each["name"] for each in columns if each.get("priority") == 1]
    assert plain == ["Ready", "Replicas", "Engine", "TP", "Model", "Adapters", "Age"]
    assert wide == ["Reason", "Message", "Image"]


def test_columns_and_scale_show_fields_that_exist() -> None:
    known = {f".spec{path}" for path in SPEC} | {f".status{path}" for path in STATUS}
    paths = [each["jsonPath"] for each in VERSION["additionalPrinterColumns"]]
    shown = [path.replace('[?(@.type=="Ready")]', "[]") for path in paths if "metadata" not in path]
    assert {*shown, *VERSION["subresources"]["scale"].values()} <= known


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_parses(path: Path) -> None:
    ours = [each for each in documents(path) if each["kind"] == "SamplerDeployment"]
    assert [parse(each).metadata.name for each in ours]


def test_there_is_an_example_for_each_way_of_use() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "autoscaled",
        "local-smollm2",
        "lora",
        "sampler",
        "sim",
        "vllm",
    }
