"""What of an adapter's config is accepted, and what of it counts."""

import json
from enum import Enum
from typing import Any

import pytest
from tests.raw_adapters import adapter_config

from sampler_api.errors import AdapterInvalid, AdapterUnsupported
from sampler_core.adapter_config import (
    canonical_config,
    changes_base,
    parse_config,
    peft_config_dict,
    stored_config,
    validate_config,
)

MODULES = {"model.layers.1.q_proj", "model.layers.0.q_proj"}
PLAIN = {"r": 2, "lora_alpha": 4, "target_modules": sorted(MODULES)}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as it is"),
        pytest.param({"base_model_name_or_path": "other"}, id="another name of the base"),
        pytest.param({"inference_mode": True}, id="saved for inference"),
        pytest.param({"lora_dropout": 0.1}, id="dropout"),
        pytest.param({"peft_version": "9.9"}, id="another version of PEFT"),
        pytest.param({"task_type": "CAUSAL_LM"}, id="a task type"),
        pytest.param({"init_lora_weights": False}, id="another initialisation"),
        pytest.param({"lora_alpha": 4.0}, id="alpha as a float"),
        pytest.param({"use_rslora": False, "rank_pattern": {}, "bias": "none"}, id="fields off"),
        pytest.param({"qalora_group_size": 16}, id="a parameter of a method that is off"),
        pytest.param({"a_field_to_come": None}, id="a new field that is off"),
        pytest.param({"target_modules": "all-linear"}, id="modules selected in another way"),
        pytest.param({"exclude_modules": ["o_proj"]}, id="modules excluded"),
    ],
)
def test_what_leaves_the_forward_pass_alone_is_not_part_of_the_identity(
    changes: dict[str, Any],
) -> None:
    assert canonical_config(adapter_config(**changes), MODULES) == PLAIN


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"r": 4}, id="rank"),
        pytest.param({"lora_alpha": 8}, id="alpha"),
        pytest.param({"use_rslora": True}, id="rank-stabilised scaling"),
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"rank_pattern": {"q_proj": 1}}, id="a rank of one module"),
        pytest.param({"alpha_pattern": {"q_proj": 1}}, id="an alpha of one module"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"lora_bias": True}, id="biases of B"),
        pytest.param({"fan_in_fan_out": True}, id="transposed weights"),
        pytest.param({"modules_to_save": ["lm_head"]}, id="whole modules"),
        pytest.param({"init_lora_weights": "pissa"}, id="an initialisation that changes the base"),
        pytest.param({"a_field_to_come": 3}, id="a new field that is on"),
    ],
)
def test_what_changes_the_forward_pass_is_part_of_the_identity(changes: dict[str, Any]) -> None:
    assert canonical_config(adapter_config(**changes), MODULES) != PLAIN


@pytest.mark.parametrize(
    ("targets", "stored"),
    [
        pytest.param(["q_proj"], ["q_proj"], id="a list stays"),
        pytest.param("all-linear", sorted(MODULES), id="a pattern becomes names"),
    ],
)
def test_a_stored_config_means_what_it_was_made_of(targets: object, stored: list[str]) -> None:
    config = adapter_config(
        use_rslora=True,
        alpha_pattern={"q_proj": 1.5},
        target_modules=targets,
        layers_to_transform=0 if isinstance(targets, list) else None,
    )
    canonical = canonical_config(config, MODULES)
    again = parse_config(stored_config(canonical, config), "x")
    assert canonical_config(again, MODULES) == canonical
    assert again["target_modules"] == stored
    assert again.get("layers_to_transform") == config["layers_to_transform"]
    assert again["base_model_name_or_path"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "r must be a rank of 1 or more, not 0"),
        ({"r": True}, "r must be a rank"),
        ({"r": None}, "r must be a rank"),
        ({"lora_alpha": "16"}, "lora_alpha must be a finite number"),
        ({"use_rslora": 1}, "use_rslora must be true or false"),
        ({"bias": "some"}, "bias must be one of none, all, lora_only"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern must be a map"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be a map"),
        ({"target_modules": [1]}, "target_modules must be a text or a list of texts"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be a layer number"),
        ({"peft_type": None}, "peft_type must be 'LORA'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_field(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterInvalid, match=message) as caught:
        validate_config(adapter_config(**changes), "adapter_config.json")
    assert caught.value.field == next(iter(changes))


def test_another_method_than_lora_is_unsupported_and_named() -> None:
    with pytest.raises(AdapterUnsupported, match="'IA3' is not served"):
        parse_config(json.dumps(adapter_config(peft_type="IA3")).encode(), "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "malformed JSON"),
        (b"\xff", "malformed JSON"),
        (b"[]", "not a JSON object"),
        (b'{"r": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "malformed JSON"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused_and_named(data: bytes, message: str) -> None:
    with pytest.raises(AdapterInvalid, match=f"dir/adapter_config.json: .*{message}"):
        parse_config(data, "dir/adapter_config.json")


class Kind(Enum):
    LORA = "LORA"


class Config:
    peft_type = Kind.LORA

    def to_dict(self) -> dict[str, Any]:
        return adapter_config(peft_type=Kind.LORA, target_modules={"v_proj", "q_proj"})


def test_a_config_object_becomes_plain_values() -> None:
    assert peft_config_dict(Config()) == adapter_config()


def test_a_path_is_no_config() -> None:
    assert peft_config_dict("some/directory") is None


def test_initialisations_that_change_the_base_are_known() -> None:
    assert changes_base({"init_lora_weights": "pissa_niter_16"})
    assert changes_base({"init_lora_weights": "OLoRA"})
    assert not changes_base({"init_lora_weights": "gaussian"})
    assert not changes_base({"init_lora_weights": True})
