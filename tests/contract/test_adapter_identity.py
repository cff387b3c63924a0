"""A directory, a PeftModel and a state dict of one adapter are one revision, also for real PEFT."""

from pathlib import Path
from typing import Any

import pytest
from tests.tiny_adapters import KINDS, tiny_adapter
from tests.tiny_models import tiny_model

from sampler_api.errors import AdapterInvalid, AdapterUnsupported
from sampler_core.adapters import (
    peft_config_dict,
    snapshot_adapter,
    write_snapshot,
    zero_adapter,
)
from sampler_core.bases import linear_shapes

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns about kinds that it cannot merge


def base() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)


def lora_model(**values: Any) -> Any:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", init_lora_weights=False, **{"target_modules": ["q_proj"], **values}
    )
    return peft.get_peft_model(base(), config)


# The directory of this kind was saved without the output layer's own weight, a PeftModel's has it.
@pytest.mark.parametrize("name", sorted(set(KINDS) - {"lm_head"}))
def test_a_directory_its_model_and_its_state_dict_have_one_digest(
    name: str, tmp_path: Path
) -> None:
    directory = tiny_adapter(name)
    model = peft.PeftModel.from_pretrained(base(), directory)
    taken = snapshot_adapter(directory)
    assert snapshot_adapter(model).digest == taken.digest
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=name == "embeddings")
    assert snapshot_adapter(state, model.peft_config["default"]).digest == taken.digest
    write_snapshot(taken, tmp_path / "x")
    assert snapshot_adapter(tmp_path / "x").digest == taken.digest


def test_every_kind_of_adapter_has_its_own_digest() -> None:
    digests = {snapshot_adapter(tiny_adapter(kind)).digest for kind in KINDS}
    assert len(digests) == len(KINDS)


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param("all-linear", id="all linear modules"),
        pytest.param(r".*layers\.\d\.(self_attn|mlp)\.\w+_proj", id="a pattern"),
        pytest.param(["q_proj", "nowhere"], id="names of which one does not occur"),
    ],
)
def test_modules_selected_in_any_way_give_the_digest_of_what_was_selected(
    targets: Any, tmp_path: Path
) -> None:
    model = lora_model(target_modules=targets)
    model.save_pretrained(str(tmp_path))
    taken = snapshot_adapter(tmp_path)
    assert snapshot_adapter(model).digest == taken.digest
    assert snapshot_adapter(peft.PeftModel.from_pretrained(base(), tmp_path)).digest == taken.digest


def test_what_is_stored_gives_the_same_logits_as_the_source(tmp_path: Path) -> None:
    for kind in ("a1", "rslora", "rank_pattern", "first_layer_only"):
        source = tiny_adapter(kind)
        stored = tmp_path / kind
        write_snapshot(snapshot_adapter(source), stored)
        ids = torch.arange(40)[None]
        with torch.no_grad():
            expected, found = (
                peft.PeftModel.from_pretrained(base(), path).eval()(ids).logits
                for path in (source, stored)
            )
        assert torch.equal(expected, found), kind


def test_the_same_weights_in_bfloat16_are_another_revision() -> None:
    model = lora_model()
    first = snapshot_adapter(model).digest
    assert snapshot_adapter(model.to(torch.bfloat16)).digest != first


def test_nan_and_infinity_in_bfloat16_are_refused() -> None:
    for value, word in ((float("nan"), "NaN"), (float("-inf"), "infinity")):
        model = lora_model().to(torch.bfloat16)
        weights = [w for name, w in model.named_parameters() if "lora_B" in name]
        with torch.no_grad():
            weights[1].view(-1)[3] = value
        with pytest.raises(AdapterInvalid, match=f"layers.1.*lora_B.weight' holds {word}"):
            snapshot_adapter(model)


def test_a_model_with_several_adapters_gives_the_active_or_the_named_one() -> None:
    model = lora_model()
    model.add_adapter("other", model.peft_config["default"])
    default, other = (snapshot_adapter(model, adapter_name=n).digest for n in ("default", "other"))
    assert default != other
    assert snapshot_adapter(model).digest == default
    model.set_adapter("other")
    assert snapshot_adapter(model).digest == other
    with pytest.raises(AdapterInvalid, match=r"no adapter 'third' .*default, other"):
        snapshot_adapter(model, adapter_name="third")


def test_training_a_model_does_not_change_the_snapshot_taken_before() -> None:
    model = lora_model()
    taken = snapshot_adapter(model)
    before = taken.files["adapter_model.safetensors"]
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert taken.files["adapter_model.safetensors"] == before
    assert snapshot_adapter(model).digest != taken.digest


def test_a_model_is_no_config_and_a_config_is_one() -> None:
    config = peft.LoraConfig(r=4, target_modules=["v_proj", "q_proj"])
    assert peft_config_dict(lora_model()) is None
    fields = peft_config_dict(config)
    assert fields is not None
    assert fields["target_modules"] == ["q_proj", "v_proj"]
    assert fields["peft_type"] == "LORA"


def test_the_zero_adapter_of_a_config_loads_and_changes_nothing(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules="all-linear", rank_pattern={"q_proj": 2})
    made = zero_adapter(config, linear_shapes(tiny_model()))
    write_snapshot(made, tmp_path / "x")
    model = peft.PeftModel.from_pretrained(base(), tmp_path / "x").eval()
    assert snapshot_adapter(model).digest == made.digest
    expected = peft.get_peft_model(base(), config)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in expected.named_parameters()}
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, base().eval()(ids).logits)


def test_another_method_is_unsupported_by_name(tmp_path: Path) -> None:
    config = peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]
    )
    model = peft.get_peft_model(base(), config)
    model.save_pretrained(str(tmp_path))
    for source in (model, tmp_path):
        with pytest.raises(AdapterUnsupported, match="'IA3' is not served"):
            snapshot_adapter(source)


def test_a_directory_saved_as_a_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    lora_model().save_pretrained(str(tmp_path), safe_serialization=False)
    with pytest.raises(AdapterInvalid, match="safe_serialization=True"):
        snapshot_adapter(tmp_path)


def test_an_adapter_saved_under_a_name_is_found_by_the_message(tmp_path: Path) -> None:
    model = lora_model()
    model.add_adapter("policy", model.peft_config["default"])
    model.save_pretrained(str(tmp_path), selected_adapters=["policy"])
    with pytest.raises(AdapterInvalid, match="policy below it has one"):
        snapshot_adapter(tmp_path)
    assert (
        snapshot_adapter(tmp_path / "policy").digest
        == snapshot_adapter(model, adapter_name="policy").digest
    )
