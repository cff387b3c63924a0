"""Each field of the spec does what the table says: rolls pods, scales, or touches a child."""

from typing import Any

import pytest
from tests.spec_cases import MINIMAL, changed, manifest
from tests.spec_effects import EFFECTS, SECTIONS, Effect, SpecEffect, leaves

from sampler_api.fleet import AdaptersConfig
from sampler_operator import names
from sampler_operator.adapter_plan import adapters_config
from sampler_operator.objects import Manifest, ref_of
from sampler_operator.plan import BuildSettings, desired
from sampler_operator.pod import LAYOUTS, chosen_template
from sampler_operator.spec.parse import parse

SETTINGS = BuildSettings({kind: f"acme/{kind}:1" for kind in ("vllm", "torch", "sim")}, "operators")
DEPLOYMENT = "Deployment fleet"


def children(given: Manifest) -> dict[str, Manifest]:
    """All children, without the annotations that only sum up the rest."""
    sd = parse(given)
    template = chosen_template(sd, {}, SETTINGS.images["torch"], LAYOUTS)
    config = adapters_config(sd, (), {}, AdaptersConfig())
    made = {str(ref_of(m)): m for m in desired(sd, template, config, SETTINGS)}
    for child in made.values():
        for sum_up in (names.DIGEST, names.TEMPLATE_DIGEST):
            child["metadata"]["annotations"].pop(sum_up, None)
    return made


def effect_on(before: dict[str, Any], after: dict[str, Any]) -> Effect:
    if before == after:
        return Effect.NONE
    if before["spec"]["template"] != after["spec"]["template"]:
        return Effect.ROLLS
    is_scaled = before["spec"]["replicas"] != after["spec"]["replicas"]
    return Effect.SCALES if is_scaled else Effect.STEERS


def test_every_field_has_a_row() -> None:
    assert {row.path for row in EFFECTS} == set(leaves())


@pytest.mark.parametrize("row", EFFECTS, ids=str)
def test_a_row_changes_its_field_alone(row: SpecEffect) -> None:
    assert row.changed_paths() == {row.path}


@pytest.mark.parametrize("row", [*EFFECTS, *SECTIONS], ids=str)
def test_a_change(row: SpecEffect) -> None:
    before, after = children(row.before), children(row.after)
    assert effect_on(before[DEPLOYMENT], after[DEPLOYMENT]) == row.effect
    touched = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert touched - {DEPLOYMENT} == set(row.children)


def test_a_mode_that_the_engine_does_not_have_rolls_nothing() -> None:
    base = changed(MINIMAL, {"engine": {"logprobsMode": "processed"}})
    raw = changed(base, {"engine": {"logprobsMode": "raw"}})
    assert children(manifest(base)) == children(manifest(raw))
