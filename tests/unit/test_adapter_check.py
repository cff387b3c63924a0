"""Adapters that do not fit the base or the engine are refused before an engine sees them."""

from typing import Any

import numpy as np
import pytest
from tests.raw_adapters import SHAPES, adapter_config, adapter_state

from sampler_api.errors import AdapterInvalid, AdapterUnsupported
from sampler_core.adapter_check import ADAPTER_KINDS, check_adapter, supported_kinds
from sampler_core.adapter_kinds import KIND_TEXTS
from sampler_core.adapter_tensors import tensors_of_state_dict
from sampler_core.adapters import zero_adapter

Q = "base_model.model.model.layers.0.self_attn.q_proj."
A, B = Q + "lora_A.weight", Q + "lora_B.weight"
DEEPER = Q.replace("layers.0", "layers.7")


def check(
    state: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    *,
    shapes: Any = SHAPES,
    max_rank: int = 8,
    engine: str = "torch",
) -> None:
    check_adapter(
        adapter_config() if config is None else config,
        tensors_of_state_dict(adapter_state() if state is None else state),
        shapes,
        max_rank=max_rank,
        supports=supported_kinds(engine),
    )


def state_with(**changes: Any) -> dict[str, Any]:
    return {**adapter_state(), **changes}


def state_without(name: str) -> dict[str, Any]:
    return {key: value for key, value in adapter_state().items() if key != name}


@pytest.mark.parametrize(
    ("state", "config"),
    [
        pytest.param(adapter_state(), adapter_config(), id="plain"),
        pytest.param(adapter_state(dtype="float16"), adapter_config(), id="half precision"),
        pytest.param(adapter_state(), adapter_config(use_rslora=True), id="rank-stabilised"),
        pytest.param(
            {**adapter_state(modules=("q_proj",), rank=3), **adapter_state(modules=("v_proj",))},
            adapter_config(rank_pattern={"q_proj": 3}, alpha_pattern={"q_proj": 9}),
            id="ranks and scalings per module",
        ),
        pytest.param(
            adapter_state(modules=("q_proj", "v_proj", "up_proj", "down_proj")),
            adapter_config(target_modules="all-linear"),
            id="all linear modules",
        ),
        pytest.param(
            adapter_state(), adapter_config(target_modules=r".*\.[qv]_proj"), id="by a pattern"
        ),
        pytest.param(
            adapter_state(),
            adapter_config(target_modules=["q_proj", "v_proj", "Wqkv"]),
            id="naming modules of other architectures too",
        ),
    ],
)
def test_an_adapter_that_fits_is_accepted(state: dict[str, Any], config: dict[str, Any]) -> None:
    check(state, config)


def test_the_zero_adapter_fits() -> None:
    made = zero_adapter(adapter_config(target_modules="all-linear"), SHAPES)
    for fields in (made.config, made.canonical):
        check_adapter(fields, made.tensors, SHAPES, max_rank=2, supports=supported_kinds("torch"))


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        pytest.param(
            state_with(**{A: np.zeros((2, 96), np.float32)}),
            None,
            rf"{A}' has shape \(2, 96\); expected \(2, 6\)",
            id="another hidden size",
        ),
        pytest.param(
            state_with(**{B: np.zeros((9, 2), np.float32)}),
            None,
            rf"{B}' has shape \(9, 2\); expected \(8, 2\)",
            id="another output size",
        ),
        pytest.param(
            None,
            adapter_config(r=4),
            rf"{A}' has shape \(2, 6\); expected \(4, 6\) from the config's rank 4",
            id="another rank in the config",
        ),
        pytest.param(
            None,
            adapter_config(rank_pattern={"q_proj": 3}),
            r"expected \(3, 6\)",
            id="another rank in the rank pattern",
        ),
        pytest.param(
            state_with(
                **{
                    DEEPER + "lora_A.weight": np.zeros((2, 6)),
                    DEEPER + "lora_B.weight": np.zeros((8, 2)),
                }
            ),
            None,
            r"layers.7.self_attn.q_proj', which the base does not have \(it has 'model.layers.0.*1",
            id="a deeper model",
        ),
        pytest.param(
            state_without(B),
            None,
            r"'model.layers.0.self_attn.q_proj' has lora_A.weight but no lora_B.weight",
            id="A without B",
        ),
        pytest.param(state_without(A), None, "has lora_B.weight but no lora_A.weight", id="no A"),
        pytest.param(
            state_with(**{A: np.zeros((2, 6), np.int32)}),
            None,
            f"{A}' has dtype I32; expected one of F32",
            id="integers",
        ),
        pytest.param(
            state_with(**{A: np.zeros((2, 6, 1), np.float32)}),
            None,
            r"has shape \(2, 6, 1\); expected two sizes",
            id="three dimensions",
        ),
        pytest.param(
            state_with(**{A: np.zeros((0, 6), np.float32)}),
            None,
            r"has shape \(0, 6\); expected two sizes above 0",
            id="an empty shard",
        ),
        pytest.param(
            None,
            adapter_config(target_modules=["v_proj"]),
            f"{A}': the config does not select its module",
            id="a tensor that the config does not select",
        ),
        pytest.param(
            None,
            adapter_config(target_modules=["q_proj", "v_proj", "up_proj"]),
            "selects 'model.layers.0.mlp.up_proj' of the base, but no tensor",
            id="a module without tensors",
        ),
        pytest.param(
            None, adapter_config(target_modules="("), "no regular expression", id="no pattern"
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    state: dict[str, Any] | None, config: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(AdapterInvalid, match=message):
        check(state, config)


KIND_EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dora": (adapter_state(), adapter_config(use_dora=True)),
    "modules_to_save": (adapter_state(), adapter_config(modules_to_save=["lm_head"])),
    "lm_head": (
        adapter_state(modules=("q_proj", "lm_head")),
        adapter_config(target_modules=["q_proj", "lm_head"]),
    ),
    "embeddings": (
        state_with(**{"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((2, 20))}),
        adapter_config(target_modules=["q_proj", "v_proj", "embed_tokens"]),
    ),
    "bias": (adapter_state(), adapter_config(bias="all")),
    "lora_bias": (adapter_state(), adapter_config(lora_bias=True)),
    "base_changing_init": (adapter_state(), adapter_config(init_lora_weights="pissa")),
    "other": (adapter_state(), adapter_config(alora_invocation_tokens=[1, 2])),
    "rslora": (adapter_state(), adapter_config(use_rslora=True)),
    "rank_pattern": (adapter_state(), adapter_config(rank_pattern={"up_proj": 3})),
    "alpha_pattern": (adapter_state(), adapter_config(alpha_pattern={"q_proj": 3})),
}


@pytest.mark.parametrize("engine", ["torch", "vllm", "sim"])
@pytest.mark.parametrize("kind", list(ADAPTER_KINDS))
def test_each_kind_is_served_or_refused_as_the_table_says(kind: str, engine: str) -> None:
    state, config = KIND_EXAMPLES[kind]
    if engine in ADAPTER_KINDS[kind]:
        check(state, config, engine=engine)
        return
    with pytest.raises(AdapterUnsupported) as caught:
        check(state, config, engine=engine)
    assert KIND_TEXTS[kind] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (Q + "lora_magnitude_vector", "dora"),
        (Q + "lora_B.bias", "lora_bias"),
        ("base_model.model.lm_head.weight", "modules_to_save"),
        (Q + "base_layer.weight", "modules_to_save"),
    ],
)
def test_a_kind_that_only_the_tensors_show_is_refused_too(name: str, kind: str) -> None:
    with pytest.raises(AdapterUnsupported) as caught:
        check(state_with(**{name: np.zeros(3, np.float32)}))
    assert f"{KIND_TEXTS[kind]} (found: {name})" in str(caught.value)


def test_embeddings_that_were_saved_beside_their_lora_are_refused_as_embeddings() -> None:
    module = "base_model.model.model.embed_tokens."
    with pytest.raises(AdapterUnsupported, match="LoRA on embeddings"):
        check(
            state_with(
                **{
                    module + "lora_embedding_A": np.zeros((2, 20), np.float32),
                    module + "base_layer.weight": np.zeros((20, 6), np.float32),
                }
            )
        )


def test_a_rank_above_the_engines_is_unsupported() -> None:
    with pytest.raises(AdapterUnsupported, match=r"rank 2 of .* more than the 1 .* smaller r"):
        check(max_rank=1)


def test_without_shapes_only_the_adapter_itself_is_checked() -> None:
    check(state_with(**{A: np.zeros((2, 96), np.float32)}), shapes={}, engine="sim")
    with pytest.raises(AdapterInvalid, match=r"expected \(4, 6\)"):
        check(config=adapter_config(r=4), shapes={}, engine="sim")
