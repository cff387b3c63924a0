"""Section 10 of docs/semantics.md: adapters."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checks import FAMILIES, assert_best, assert_explained, prompts
from tests.reference import TOLERANCE, reference
from tests.samplers import SamplerKinds, is_of_vllm
from tests.tiny_adapters import KINDS, tiny_adapter

from sampler_api.errors import (
    AdapterError,
    AdapterInvalid,
    AdapterUnsupported,
    InvalidRequest,
    SamplerError,
)
from sampler_api.params import SamplingParams
from sampler_core.adapters import snapshot_adapter
from sampler_core.base import SamplerBase

REF = reference()
GREEDY = SamplingParams(temperature=0, max_tokens=10, logprobs=2, prompt_logprobs=0)
EXACT = (
    "a1",
    "a2",
    "attention_only",
    "rank_64",
    "rslora",
    "rank_pattern",
    "first_layer_only",
)
TENSORS = "adapter_model.safetensors"


@pytest.fixture
def folder(kinds: SamplerKinds, request: pytest.FixtureRequest) -> Path:
    """A new directory that servers may read adapters from."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    made = kinds.adapter_root / name
    made.mkdir()
    return made


def copied(kind: str, to: Path) -> str:
    """A copy of a tiny adapter that a test may overwrite."""
    shutil.copytree(tiny_adapter(kind), to, dirs_exist_ok=True)
    return str(to)


def ask(sampler: SamplerBase, adapter: str = "", **options: Any) -> list[list[int]]:
    inputs = [{"input_ids": ids} for ids in prompts(REF)]
    return [s.tokens for s in sampler.sample(inputs, GREEDY, adapter, **options).sequences]


def assert_of(adapter: str | None, found: list[list[int]]) -> None:
    for ids, tokens in zip(prompts(REF), found, strict=True):
        assert_best(REF, ids, tokens, GREEDY, adapter)


@pytest.mark.rule("S10.1", "S10.5", "S10.8")
@pytest.mark.parametrize("kind_of_adapter", EXACT)
def test_an_adapter_gives_what_peft_gives(
    sampler: SamplerBase, kind: str, kind_of_adapter: str
) -> None:
    name = f"exact-{kind_of_adapter}"
    try:
        bound = sampler.add_adapter_to_model(name, tiny_adapter(kind_of_adapter))
    except AdapterUnsupported as error:
        # Versions of vLLM that overlook it; tests/vllm holds that no others refuse.
        if is_of_vllm(kind) and error.field == "rank_pattern":
            return
        raise
    inputs = [{"input_ids": ids} for ids in prompts(REF)]
    responses = sampler.sample(inputs, GREEDY, name)
    base = sampler.sample({"input_ids": [5]}, {"max_tokens": 1}).sequences[0].revision
    assert base is not None
    for ids, response in zip(prompts(REF), responses, strict=True):
        (sequence,) = response.sequences
        assert_best(REF, ids, sequence.tokens, GREEDY, kind_of_adapter)
        assert_explained(REF, ids, sequence, GREEDY, kind_of_adapter)
        scores = REF.prompt_logprobs(ids, kind_of_adapter)
        assert response.prompt_logprobs is not None
        np.testing.assert_allclose(
            response.prompt_logprobs[1:],  # type: ignore[arg-type]
            [row[token] for row, token in zip(scores, ids[1:], strict=True)],
            rtol=0,
            atol=TOLERANCE,
        )
        assert sequence.revision is not None
        assert (sequence.revision.base, sequence.revision.adapter) == (base.base, bound.digest)
        assert {segment.revision for segment in sequence.segments} == {sequence.revision}
    base_tokens = [REF.greedy(ids, GREEDY).tokens for ids in prompts(REF)]
    assert [s.tokens for s in responses.sequences] != base_tokens


@pytest.mark.rule("S10.5", "S4.8")
@pytest.mark.parametrize("family", ["all truncations", "all penalties", "candidates"])
def test_drawn_tokens_under_an_adapter_are_explained(sampler: SamplerBase, family: str) -> None:
    sampler.add_adapter_to_model("drawn", tiny_adapter("a2"))
    params = SamplingParams.of({"max_tokens": 12, "logprobs": 1, "seed": 3, **FAMILIES[family]})
    ids = prompts(REF)[0]
    for sequence in sampler.sample({"input_ids": ids}, params, "drawn", num_samples=3).sequences:
        assert_explained(REF, ids, sequence, params, "a2")


@pytest.mark.rule("S10.6", "S4.8")
async def test_base_and_adapters_in_one_moving_batch_are_exact(sampler: SamplerBase) -> None:
    import asyncio

    sampler.add_adapter_to_model("mix-1", tiny_adapter("a1"))
    sampler.add_adapter_to_model("mix-2", tiny_adapter("a2"))
    kinds = {"": None, "mix-1": "a1", "mix-2": "a2"}
    params = {
        seed: SamplingParams(max_tokens=4 + 5 * seed, logprobs=1, seed=seed, ignore_eos=True)
        for seed in range(4)
    }
    # Different lengths, so that sequences leave and others join while the rest goes on.
    jobs = [(name, ids, seed) for seed in params for ids in prompts(REF) for name in kinds]
    answers = await asyncio.gather(
        *(sampler.asample({"input_ids": ids}, params[seed], name) for name, ids, seed in jobs)
    )
    for (name, ids, seed), answer in zip(jobs, answers, strict=True):
        assert_explained(REF, ids, answer.sequences[0], params[seed], kinds[name])


@pytest.mark.rule("S10.2")
def test_a_directory_may_be_used_for_one_call(sampler: SamplerBase, folder: Path) -> None:
    path = copied("a1", folder / "step")
    assert_of("a1", ask(sampler, adapter_path=path))
    copied("a2", folder / "step")
    assert_of("a2", ask(sampler, adapter_path=path))
    assert_of(None, ask(sampler))


@pytest.mark.rule("S10.3")
def test_the_base_is_what_nobody_named_an_adapter_for(sampler: SamplerBase) -> None:
    sampler.add_adapter_to_model("named", tiny_adapter("a1"))
    path = str(tiny_adapter("a2"))
    assert_of(None, ask(sampler))
    assert_of(None, ask(sampler, "named", use_base_model=True))
    assert_of(None, ask(sampler, adapter_path=path, use_base_model=True))
    assert_of(None, ask(sampler, use_base_model=True))


@pytest.mark.rule("S10.4")
def test_an_unknown_name_is_never_the_base(sampler: SamplerBase) -> None:
    with pytest.raises(InvalidRequest, match="nobody") as raised:
        sampler.sample({"input_ids": [5]}, {"max_tokens": 1}, "nobody")
    assert raised.value.field == "adapter_name"


@pytest.mark.rule("S10.7")
def test_a_directory_and_its_copy_have_one_digest(sampler: SamplerBase, folder: Path) -> None:
    one = sampler.add_adapter_to_model("digest-1", tiny_adapter("a1"))
    two = sampler.add_adapter_to_model("digest-2", copied("a1", folder / "elsewhere"))
    other = sampler.add_adapter_to_model("digest-3", tiny_adapter("a2"))
    assert one.digest == two.digest != other.digest
    assert one.digest.startswith("sha256:")


@pytest.mark.rule("S10.7")
def test_a_model_and_its_state_dict_have_the_digest_of_their_directory() -> None:
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from tests.tiny_models import tiny_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tiny_adapter("a1"))
    config = model.peft_config["default"]
    digests = {
        snapshot_adapter(str(tiny_adapter("a1"))).digest,
        snapshot_adapter(model).digest,
        snapshot_adapter(get_peft_model_state_dict(model), config).digest,
    }
    assert len(digests) == 1


@pytest.mark.rule("S10.9")
@pytest.mark.parametrize("change", ["overwritten", "removed"])
def test_what_was_bound_survives_its_directory(
    sampler: SamplerBase, folder: Path, change: str
) -> None:
    path = copied("a1", folder / "step")
    sampler.add_adapter_to_model(f"kept-{change}", path)
    if change == "overwritten":
        copied("a2", folder / "step")
    else:
        shutil.rmtree(path)
    assert_of("a1", ask(sampler, f"kept-{change}"))


@pytest.mark.rule("S10.10")
def test_a_config_makes_the_adapter_that_changes_nothing(
    sampler: SamplerBase, kinds: SamplerKinds
) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    bound = sampler.add_adapter_to_model("zero", config)
    assert_of(None, ask(sampler, "zero"))
    assert sampler.add_adapter_to_model("zero-again", config).digest == bound.digest
    assert kinds.shared("torch").add_adapter_to_model("zero", config).digest == bound.digest
    revision = sampler.sample({"input_ids": [5]}, {"max_tokens": 1}, "zero").sequences[0].revision
    assert revision is not None
    assert revision.adapter == bound.digest


def truncated(folder: Path) -> None:
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: len(data) // 2])


def pickled(folder: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x01.")


def misshapen(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / TENSORS)
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
    save_file(tensors, folder / TENSORS)


def not_finite(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / TENSORS)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / TENSORS)


def not_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[not json")


@pytest.mark.rule("S10.11", "S10.4")
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        pytest.param(shutil.rmtree, "", id="missing"),
        pytest.param(lambda d: (d / TENSORS).unlink(), TENSORS, id="without tensors"),
        pytest.param(
            lambda d: (d / "adapter_config.json").unlink(), "adapter_config.json", id="no config"
        ),
        pytest.param(not_json, "adapter_config.json", id="a config that is no JSON"),
        pytest.param(truncated, TENSORS, id="truncated"),
        pytest.param(pickled, "adapter_model.bin", id="pickled"),
        pytest.param(misshapen, "lora_A", id="of wrong shapes"),
        pytest.param(not_finite, TENSORS, id="not finite"),
    ],
)
@pytest.mark.parametrize("way", ["add_adapter_to_model", "adapter_path"])
def test_a_broken_directory_is_refused(
    sampler: SamplerBase, folder: Path, damage: Any, word: str, way: str
) -> None:
    path = copied("a3", folder / "broken")
    damage(folder / "broken")
    name = f"broken-{folder.name}"

    def use() -> None:
        if way == "adapter_path":
            sampler.sample({"input_ids": [5]}, {"max_tokens": 1}, adapter_path=path)
        else:
            sampler.add_adapter_to_model(name, path)

    with pytest.raises(AdapterInvalid) as raised:
        use()
    assert "broken" in str(raised.value)
    assert word in str(raised.value)
    with pytest.raises(InvalidRequest):
        sampler.sample({"input_ids": [5]}, {"max_tokens": 1}, name)
    assert_of(None, ask(sampler))


@pytest.mark.rule("S10.12", "S10.5")
@pytest.mark.parametrize("kind_of_adapter", sorted(set(KINDS) - set(EXACT)))
def test_other_kinds_are_exact_or_refused(sampler: SamplerBase, kind_of_adapter: str) -> None:
    name = f"other-{kind_of_adapter}"
    refusal: AdapterUnsupported | None = None
    try:
        sampler.add_adapter_to_model(name, tiny_adapter(kind_of_adapter))
    except AdapterUnsupported as error:
        refusal = error
    if refusal is None:
        assert_of(kind_of_adapter, ask(sampler, name))
    else:
        assert str(refusal)
        assert not refusal.retryable


@pytest.mark.rule("S10.13")
def test_generations_grow(second_sampler: SamplerBase) -> None:
    first = second_sampler.add_adapter_to_model("step", tiny_adapter("a1"))
    second = second_sampler.add_adapter_to_model("step", tiny_adapter("a2"))
    third = second_sampler.add_adapter_to_model("step", tiny_adapter("a1"), generation=10)
    fourth = second_sampler.add_adapter_to_model("step", tiny_adapter("a2"))
    numbers = [each.generation for each in (first, second, third, fourth)]
    assert numbers == [numbers[0], numbers[0] + 1, 10, 11]
    with pytest.raises(SamplerError, match="generation"):
        second_sampler.add_adapter_to_model("step", tiny_adapter("a1"), generation=11)


@pytest.mark.rule("S10.14")
def test_a_name_that_is_bound_again_means_the_new_bytes(sampler: SamplerBase, folder: Path) -> None:
    for number, kind in enumerate(("a1", "a2", "a1", "a3")):
        sampler.add_adapter_to_model("rebound", copied(kind, folder / f"step-{number}"))
        # The same prompts each time: what was computed for them belongs to other weights.
        assert_of(kind, ask(sampler, "rebound"))


@pytest.mark.rule("S10.15", only=("remote",))
@pytest.mark.parametrize("way", ["a path", "a link", "a dotted path"])
def test_a_server_reads_adapters_below_its_roots_only(
    sampler: SamplerBase, folder: Path, tmp_path: Path, way: str
) -> None:
    outside = copied("a3", tmp_path / "outside")
    if way == "a link":
        (folder / "link").symlink_to(outside)
        outside = str(folder / "link")
    elif way == "a dotted path":
        outside = f"{folder}/../../{tmp_path.name}/outside"
        if not Path(outside).is_dir():
            outside = str(folder / ".." / ".." / ".." / Path(*tmp_path.parts[1:]) / "outside")
    # Other bytes than those that the server holds already under their digest.
    config = Path(tmp_path / "outside" / "adapter_config.json")
    config.write_text(config.read_text().replace('"lora_alpha": 16', '"lora_alpha": 17'))
    with pytest.raises(AdapterError, match=r"root|below|allowed"):
        sampler.sample({"input_ids": [5]}, {"max_tokens": 1}, adapter_path=outside)
    assert_of(None, ask(sampler))
