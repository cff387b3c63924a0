"""One adapter, one digest; another adapter, another digest."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.raw_adapters import (
    SHAPES,
    adapter_config,
    adapter_state,
    raw_snapshot,
    write_adapter,
)

from sampler_api.errors import AdapterInvalid, AdapterUnsupported
from sampler_core.adapters import (
    CONFIG_FILE,
    TENSORS_FILE,
    adapter_digest,
    snapshot_adapter,
    write_snapshot,
    zero_adapter,
)

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
GOLDEN_ZERO = "sha256:728ea89308c5ec6c807588964a28cb392bd712beb99f0d8ed047a5682c9b59ad"


def test_a_directory_and_a_state_dict_of_one_adapter_have_one_digest(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", 3)
    assert snapshot_adapter(directory).digest == raw_snapshot(3).digest
    assert snapshot_adapter(str(directory)).source == str(directory)


def test_the_digest_is_that_of_config_and_tensors() -> None:
    taken = raw_snapshot()
    assert adapter_digest(taken.config, taken.tensors) == taken.digest
    assert taken.digest.startswith("sha256:")
    assert len(taken.digest) == len("sha256:") + hashlib.sha256().digest_size * 2


def test_the_order_of_tensors_does_not_matter() -> None:
    state = adapter_state()
    backwards = dict(reversed(state.items()))
    config = adapter_config()
    assert snapshot_adapter(state, config).digest == snapshot_adapter(backwards, config).digest


def changed(**values: Any) -> dict[str, Any]:
    return {**adapter_state(), **values}


@pytest.mark.parametrize(
    ("state", "config"),
    [
        pytest.param(adapter_state(1), adapter_config(), id="other values"),
        pytest.param(adapter_state(dtype="float16"), adapter_config(), id="another dtype"),
        pytest.param(adapter_state(), adapter_config(lora_alpha=8), id="another scaling"),
        pytest.param(
            changed(**{NAME: adapter_state()[NAME].reshape(6, 2)}),
            adapter_config(),
            id="the same bytes in another shape",
        ),
        pytest.param(adapter_state(modules=("q_proj",)), adapter_config(), id="fewer modules"),
    ],
)
def test_what_changes_the_weights_changes_the_digest(
    state: dict[str, Any], config: dict[str, Any]
) -> None:
    assert snapshot_adapter(state, config).digest != raw_snapshot().digest


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_values_that_are_not_finite_are_refused_with_the_tensor(
    dtype: str, value: float, word: str
) -> None:
    state = adapter_state(dtype=dtype)
    state[NAME][1, 2] = value
    with pytest.raises(AdapterInvalid, match=f"{NAME}' holds {word}"):
        snapshot_adapter(state, adapter_config())


def test_the_greatest_finite_values_are_accepted() -> None:
    state = adapter_state(dtype="float16")
    state[NAME][:] = np.finfo(np.float16).max
    snapshot_adapter(state, adapter_config())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pytest.param({}, "no LoRA tensor", id="nothing"),
        pytest.param({"lm_head.weight": np.zeros((2, 2))}, "no LoRA tensor", id="no LoRA"),
        pytest.param({NAME: [1.0]}, "is no tensor", id="a list"),
        pytest.param({NAME: np.array(["x"])}, "is no tensor", id="texts"),
        pytest.param({1: np.zeros(1)}, "1 is no tensor name", id="a number for a name"),
        pytest.param(
            {NAME.replace("A.weight", "A.default.weight"): np.zeros((2, 2))},
            "get_peft_model_state_dict",
            id="names with the adapter's name",
        ),
    ],
)
def test_a_state_dict_that_is_no_adapter_is_refused(state: dict[Any, Any], message: str) -> None:
    with pytest.raises(AdapterInvalid, match=message):
        snapshot_adapter(state, adapter_config())


def test_a_state_dict_needs_its_config() -> None:
    with pytest.raises(AdapterInvalid, match="needs its PEFT config"):
        snapshot_adapter(adapter_state())


def test_anything_else_is_refused_with_what_would_do() -> None:
    with pytest.raises(AdapterInvalid, match="pass a directory, a PeftModel, or a state dict"):
        snapshot_adapter(3)


def test_a_snapshot_does_not_see_later_writes(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", 1)
    state, config = adapter_state(1), adapter_config()
    of_directory, of_state = snapshot_adapter(directory), snapshot_adapter(state, config)
    write_adapter(directory, 2)
    state[NAME][:] = 0
    for taken in (of_directory, of_state):
        assert adapter_digest(taken.config, taken.tensors) == raw_snapshot(1).digest


def test_what_is_written_has_the_digest_of_what_was_taken(tmp_path: Path) -> None:
    taken = raw_snapshot(4, use_rslora=True, target_modules="all-linear")
    write_snapshot(taken, tmp_path / "store" / "x")
    again = snapshot_adapter(tmp_path / "store" / "x")
    assert again.digest == taken.digest
    assert sorted(path.name for path in (tmp_path / "store" / "x").iterdir()) == [
        CONFIG_FILE,
        TENSORS_FILE,
    ]
    assert taken.total_bytes == sum(p.stat().st_size for p in (tmp_path / "store/x").iterdir())


def test_writing_twice_leaves_one_directory_and_no_drafts(tmp_path: Path) -> None:
    for _ in range(2):
        write_snapshot(raw_snapshot(), tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        write_snapshot(raw_snapshot(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_zero_adapter_of_a_config_is_the_same_on_every_machine() -> None:
    made = zero_adapter(adapter_config(), SHAPES)
    assert made.digest == GOLDEN_ZERO
    assert made.digest == zero_adapter(adapter_config(init_lora_weights="pissa"), SHAPES).digest


def test_the_zero_adapter_changes_nothing_and_can_learn() -> None:
    made = zero_adapter(adapter_config(rank_pattern={"v_proj": 3}), SHAPES)
    assert made.canonical["target_modules"] == sorted(
        name for name in SHAPES if name.endswith(("q_proj", "v_proj"))
    )
    for name, tensor in made.tensors.items():
        values = np.frombuffer(tensor.data, np.float32)
        rank = 3 if "v_proj" in name else 2
        if "lora_B" in name:
            assert not values.any()
            assert tensor.shape[1] == rank
        else:
            assert tensor.shape == (rank, 6)
            assert np.abs(values).max() <= 1 / np.sqrt(6)
            assert np.abs(values).max() > 0.2
            assert len(np.unique(values)) == values.size


def test_a_large_zero_adapter_is_uniform() -> None:
    made = zero_adapter(adapter_config(r=64, target_modules=["w"]), {"w": (4, 1024)})
    values = np.frombuffer(made.tensors["base_model.model.w.lora_A.weight"].data, np.float32)
    assert abs(values.mean() * 32) < 0.01
    assert abs(values.var() * 1024 - 1 / 3) < 0.005


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (adapter_config(target_modules=None), "target_modules must name the modules"),
        (adapter_config(target_modules=["Wqkv"]), "selects no linear module of the base.*q_proj"),
        ("a/directory", "a str is no PEFT config"),
    ],
)
def test_a_config_that_makes_no_adapter_is_refused(config: object, message: str) -> None:
    with pytest.raises(AdapterInvalid, match=message):
        zero_adapter(config, SHAPES)


def test_a_config_with_more_than_a_and_b_makes_no_zero_adapter() -> None:
    with pytest.raises(AdapterUnsupported, match="use_dora is not served"):
        zero_adapter(adapter_config(use_dora=True), SHAPES)
