"""Manifests become models, or errors that say where in the YAML and what to do."""

import pickle
from typing import Any

import pytest
from tests.invalid_specs import INVALID, InvalidSpecCase
from tests.spec_cases import MINIMAL, VALID, changed, manifest

from sampler_operator.errors import InvalidSpec
from sampler_operator.spec import Rule, SamplerDeployment, SpecModel
from sampler_operator.spec.parse import parse


def problem(made: object) -> InvalidSpec:
    with pytest.raises(InvalidSpec) as caught:
        parse(made)
    return caught.value


@pytest.mark.parametrize("spec", VALID.values(), ids=VALID.keys())
def test_a_valid_spec_is_taken(spec: dict[str, Any]) -> None:
    assert parse(manifest(spec)).metadata.name == "fleet"


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.sentence)
def test_an_invalid_spec_is_refused_at_its_field(case: InvalidSpecCase) -> None:
    error = problem(case.manifest)
    assert error.field == case.field
    assert error.message.startswith(f"{case.field}: ")
    assert case.message in error.message
    assert "\n" not in error.message


def models(model: type[SpecModel] = SpecModel) -> set[type[SpecModel]]:
    below = model.__subclasses__()
    return {model, *below, *(each for one in below for each in models(one))}


def test_every_rule_has_an_invalid_spec() -> None:
    told = {problem(case.manifest).message for case in INVALID}
    # Other tests make models of their own.
    ours = {model for model in models() if model.__module__.startswith("sampler_operator.")}
    rules: set[Rule] = {rule for model in ours for rule in model.rules}
    assert {rule for rule in rules if not any(rule.message in text for text in told)} == set()
    assert len(rules) > 15


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt field names the nearest": (
        {"replica": 2},
        "spec.replica: unknown field; did you mean replicas?",
    ),
    "a field of another place names that place": (
        {"gpuMemoryUtilization": 0.5},
        "spec.gpuMemoryUtilization: unknown field; it belongs to spec.engine.vllm",
    ),
    "a field of several places names them": (
        {"maxModelLen": 4096},
        "spec.maxModelLen: unknown field; it belongs to spec.engine.sim, spec.engine.torch or"
        " spec.engine.vllm",
    ),
    "a foreign field in a small object tells what is known there": (
        {"gpu": {"vendor": "x"}},
        "spec.gpu.vendor: unknown field; remove it; known here are count, resourceName",
    ),
    "a foreign field in a large object is to be removed": (
        {"xyzzy": 1},
        "spec.xyzzy: unknown field; remove it",
    ),
    "a missing field is named": (
        {"auth": {"tokenSecretRef": {}}},
        "spec.auth.tokenSecretRef.name: is required",
    ),
    "a number in quotes is shown as it is": (
        {"replicas": "3"},
        "spec.replicas: must be a whole number, not '3'",
    ),
    "a number out of range tells the limit": (
        {"tensorParallelSize": 0},
        "spec.tensorParallelSize: must be at least 1, not 0",
    ),
    "a number where text must be wants quotes": (
        {"env": [{"name": "A", "value": 1}]},
        "spec.env[0].value: must be text, not 1; write it in quotes",
    ),
    "a fraction where a quantity must be wants quotes": (
        {"resources": {"limits": {"cpu": 0.5}}},
        "spec.resources.limits.cpu: must be a quantity such as 2, '500m' or '16Gi'; write it in"
        " quotes",
    ),
    "a name with a slash is in brackets": (
        {"nodeSelector": {"example.com/gpu": True}},
        "spec.nodeSelector[example.com/gpu]: must be text, not true; write it in quotes",
    ),
    "a name that is no text is told": (
        {"nodeSelector": {1: "a"}},
        "spec.nodeSelector[1]: names must be text; write this one in quotes",
    ),
    "a choice tells what can be chosen": (
        {"imagePullPolicy": "Maybe"},
        "spec.imagePullPolicy: must be 'Always', 'IfNotPresent' or 'Never', not 'Maybe'",
    ),
    "empty text is to be left out": (
        {"image": ""},
        "spec.image: must not be empty; leave it out instead",
    ),
    "long values are cut": (
        {"paused": "x" * 100},
        f"spec.paused: must be true or false, not '{'x' * 55}…'",
    ),
    "a rule is told at its field": (
        {"engine": {"torch": None, "vllm": {}}, "tensorParallelSize": 2, "gpu": {"count": 1}},
        "spec.gpu.count: must be 0 (run on CPUs) or equal tensorParallelSize; leave it out",
    ),
    "a rule about an object is told at the object": (
        {"engine": {"vllm": {}}},
        "spec.engine: exactly one of vllm, torch and sim must be given; {} takes all its defaults",
    ),
    "several problems are told at once": (
        {"replicas": -1, "paused": 1},
        "spec.replicas: must be at least 0, not -1; spec.paused: must be true or false, not 1",
    ),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS.keys())
def test_the_error_says_what_to_do(change: dict[str, Any], message: str) -> None:
    assert problem(manifest(changed(MINIMAL, change))).message == message


def test_an_object_of_another_kind_is_told_in_one_sentence() -> None:
    other = manifest({"template": {}}) | {"kind": "Deployment", "apiVersion": "apps/v1"}
    assert problem(other).message == (
        "apiVersion: must be sampler.dev/v1alpha1, not 'apps/v1';"
        " kind: must be SamplerDeployment, not 'Deployment'"
    )


def test_a_misspelt_section_is_told() -> None:
    made = manifest(MINIMAL)
    made["specs"] = made.pop("spec")
    assert problem(made).message == ("specs: unknown field; did you mean spec?; spec: is required")


@pytest.mark.parametrize("made", [None, [], "kind: SamplerDeployment"])
def test_what_is_no_mapping_is_no_manifest(made: object) -> None:
    assert "is a mapping of apiVersion, kind, metadata and spec" in problem(made).message


def test_nulls_are_kept_where_they_take_something_away() -> None:
    given = {"runAsUser": None}
    spec = parse(manifest({**MINIMAL, "podSecurityContext": given})).spec
    assert spec.pod_security_context == given


def test_what_is_not_the_operators_is_no_problem() -> None:
    made = manifest(MINIMAL)
    made["metadata"] |= {"managedFields": [], "resourceVersion": "1", "finalizers": ["a"]}
    made["status"] = {"anything": 1}
    assert isinstance(parse(made), SamplerDeployment)


def test_the_error_pickles() -> None:
    error = problem(manifest({}))
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.field) == (error.message, "spec.model")
