"""Which modules a config selects, and with which rank."""

from typing import Any

import pytest
from tests.raw_adapters import SHAPES, adapter_config

from sampler_api.errors import AdapterInvalid
from sampler_core.adapter_targets import rank_of, selects

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
LINEAR = {name for name in SHAPES if name.startswith("model.layers")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"target_modules": ["q_proj"]}, {Q0, Q1}, id="by the last part of the name"),
        pytest.param({"target_modules": ["proj"]}, set(), id="never by a part of a word"),
        pytest.param({"target_modules": [Q1]}, {Q1}, id="by the full name"),
        pytest.param({"target_modules": r".*\.1\..*q_proj"}, {Q1}, id="by a pattern"),
        pytest.param({"target_modules": r"q_proj"}, set(), id="by a pattern only as a whole"),
        pytest.param(
            {"target_modules": "all-linear"}, LINEAR, id="all linear ones without the output layer"
        ),
        pytest.param(
            {"target_modules": ["q_proj"], "layers_to_transform": [1]}, {Q1}, id="in some layers"
        ),
        pytest.param(
            {"target_modules": ["q_proj"], "layers_to_transform": 0}, {Q0}, id="in one layer"
        ),
        pytest.param(
            {
                "target_modules": ["q_proj"],
                "layers_to_transform": [1],
                "layers_pattern": "layers",
            },
            {Q1},
            id="in layers by the name of their list",
        ),
        pytest.param(
            {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]},
            set(),
            id="in no layer when the list has another name",
        ),
        pytest.param(
            {"target_modules": ["q_proj"], "exclude_modules": [Q0]},
            {Q1},
            id="not excluded ones",
        ),
        pytest.param(
            {"target_modules": ["q_proj"], "exclude_modules": r".*\.1\..*"},
            {Q0},
            id="without those that a pattern excludes",
        ),
        pytest.param(
            {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
            set(),
            id="without modules that are saved whole",
        ),
        pytest.param({"target_modules": None}, set(), id="none when nothing is said"),
    ],
)
def test_modules_are_selected(changes: dict[str, Any], expected: set[str]) -> None:
    config = adapter_config(**changes)
    assert {module for module in SHAPES if selects(config, module)} == expected


def test_a_rank_pattern_wins_over_the_rank() -> None:
    config = adapter_config(r=2, rank_pattern={r"layers\.1\..*q_proj": 3, "up_proj": 4})
    assert [rank_of(config, module) for module in (Q0, Q1)] == [2, 3]
    assert rank_of(config, "model.layers.0.mlp.up_proj") == 4
    assert rank_of(config, "model.layers.0.mlp.mup_proj") == 2


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_a_broken_pattern_is_refused_with_the_name_of_its_field(field: str) -> None:
    with pytest.raises(AdapterInvalid, match=f"{field}: .* no regular expression"):
        selects(adapter_config(**{field: "("}), Q0)
