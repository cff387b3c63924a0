"""Models and adapters that the torch engine takes, and those that it refuses in one line."""

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.raw_adapters import write_adapter  # noqa: E402
from tests.reference import TOLERANCE, log_softmax, reference  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402
from tests.torch_harness import TorchHarness, ask, prompt_of  # noqa: E402

from sampler_api.errors import (  # noqa: E402
    AdapterCapacity,
    AdapterInvalid,
    AdapterUnsupported,
    InvalidRequest,
    ModelInvalid,
    Unsupported,
)
from sampler_core.bases import linear_shapes  # noqa: E402
from sampler_server import TorchSampler  # noqa: E402
from sampler_server.samplers import module_shapes, weights_digest  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def made(architecture: str, **values: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **{**SIZES, **values})
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(0, 0.08)
    return model.float().eval()


def expected_logprobs(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
    return np.stack([log_softmax(row) for row in logits[:-1]])


def test_a_sliding_window_is_kept_in_chunks_and_in_decoding() -> None:
    model = made("mistral", sliding_window=24)
    harness = TorchHarness(model, slots=4, kv_tokens=1024, prefill_tokens=16)
    requests = [ask(prompt_of(n, n), max_tokens=40, ignore_eos=True) for n in (3, 40, 90)]
    found = harness.run(*requests)
    harness.engine.close()
    for request, one in zip(requests, found, strict=True):
        rows = expected_logprobs(model, [*request.prompt_ids.tolist(), *one.tokens])[-40:]
        assert np.abs(rows[np.arange(40), one.tokens] - one.logprobs).max() <= TOLERANCE


def test_a_ready_model_is_served_and_given_back_as_it_came() -> None:
    model = made("llama")
    before = model.config._attn_implementation
    ids = prompt_of(30)
    expected = expected_logprobs(model, ids)
    harness = TorchHarness(model, slots=2)
    harness.run(ask(ids))
    harness.engine.close()
    assert model.config._attn_implementation == before
    assert np.array_equal(expected, expected_logprobs(model, ids))


def loaded() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)


GREEDY = {"max_tokens": 8, "temperature": 0, "logprobs": 1, "ignore_eos": True}
PROMPT = {"input_ids": [5, 6, 7]}


def test_a_sampler_of_a_ready_model_gives_what_one_of_its_directory_gives(tmp_path: Path) -> None:
    with TorchSampler(str(tiny_model()), dtype="float32", device="cpu") as sampler:
        (base,) = sampler.sample(PROMPT, GREEDY).sequences
        sampler.add_adapter_to_model("a1", tiny_adapter("a1"))
        (adapted,) = sampler.sample(PROMPT, GREEDY, "a1").sequences
    model = loaded()
    digest = weights_digest(model)
    with TorchSampler(model, device="cpu", tokenizer_dir=tiny_model()) as sampler:
        (ready,) = sampler.sample(PROMPT, GREEDY).sequences
        assert (ready.tokens, ready.decoded) == (base.tokens, base.decoded)
        assert ready.revision is not None
        assert ready.revision.base == digest
        sampler.add_adapter_to_model("a1", tiny_adapter("a1"))
        (again,) = sampler.sample(PROMPT, GREEDY, "a1").sequences
        assert again.tokens == adapted.tokens != base.tokens
        # Its shapes are compared with those of the model's own modules.
        with pytest.raises(AdapterInvalid, match="shape"):
            sampler.add_adapter_to_model("sim", write_adapter(tmp_path / "sim", 1))
        assert base.decoded is not None
        (stopped,) = sampler.sample(PROMPT, {**GREEDY, "stop": base.decoded[2:4]}).sequences
        assert stopped.stop_reason == "stop"
        (answer,) = sampler.sample({"messages": [{"role": "user", "content": "hi"}]}, GREEDY)
        assert answer.sequences[0].decoded


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "as they are"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_who_overwrites_the_files_of_a_served_model_changes_nothing(
    tmp_path: Path, family: Any, pack: bool
) -> None:
    """The page cache that a mapping shares with the file is written to, as a trainer would."""
    folder = shutil.copytree(tiny_model(family), tmp_path / "model")
    inputs = [{"input_ids": prompt_of(length, length)} for length in (3, 9)]
    params = {"max_tokens": 12, "temperature": 0.0, "logprobs": 1, "prompt_logprobs": 1}
    with TorchSampler(str(folder), dtype="float32", device="cpu", pack_weights=pack) as sampler:
        before = sampler.sample(inputs, params)
        with (folder / "model.safetensors").open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            (header,) = struct.unpack("<Q", file.read(8))
            file.seek(8 + header)
            file.write(bytes(size - 8 - header))
        after = sampler.sample(inputs, params)
    for old, new in zip(before, after, strict=True):
        assert new.sequences[0].tokens == old.sequences[0].tokens
        assert new.sequences[0].logprobs == old.sequences[0].logprobs
        assert new.prompt_logprobs == old.prompt_logprobs


def test_a_ready_model_without_a_tokenizer_takes_ids_and_refuses_text() -> None:
    with TorchSampler(loaded(), device="cpu") as sampler:
        (sequence,) = sampler.sample(PROMPT, GREEDY).sequences
        assert len(sequence.tokens) == 8
        assert sequence.decoded is None
        with pytest.raises(Unsupported, match="no tokenizer; use stop_token_ids"):
            sampler.sample(PROMPT, {**GREEDY, "stop": "x"})
        with pytest.raises(InvalidRequest, match="no tokenizer; call set_template"):
            sampler.sample({"messages": [{"role": "user", "content": "hi"}]}, GREEDY)


def test_a_ready_model_is_known_by_its_weights_and_by_nothing_else() -> None:
    model, same, other, half = loaded(), loaded(), loaded(), loaded().half()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    same.config.name_or_path = "elsewhere"
    digests = [weights_digest(each) for each in (model, same, other, half)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


def test_a_ready_model_has_the_module_shapes_of_its_files() -> None:
    assert module_shapes(loaded()) == linear_shapes(tiny_model())


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "softcapped attention": ("gemma2", {"sliding_window": 16}, "softcap"),
    "angles that depend on the batch": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "dynamic",
    ),
    "a recurrent state": ("mamba", {}, "Mamba"),
}


@pytest.mark.parametrize(("architecture", "values", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_rows_cannot_serve_is_refused_at_the_start(
    architecture: str, values: dict[str, Any], word: str
) -> None:
    with pytest.raises(ModelInvalid, match=word):
        TorchHarness(made(architecture, **values))


def test_a_directory_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=str(tmp_path)):
        TorchHarness(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"dtype": "float99"},
            "dtype: must be one of 'auto', 'float32', 'bfloat16', 'float16', not 'float99'",
            id="an unknown dtype is refused by name",
        ),
        pytest.param(
            {"dtype": "nn"}, "dtype: must be one of", id="another name of torch is no dtype"
        ),
        pytest.param(
            {"device": "cuda:99"},
            "device: 'cuda:99' cannot be used on this machine: ",
            id="a card that is not there is refused by name",
        ),
        pytest.param(
            {"device": "gpu"},
            "device: 'gpu' cannot be used on this machine: ",
            id="what is no device is refused by name",
        ),
        pytest.param(
            {"device": "meta"},
            "device: 'meta' cannot be used on this machine: ",
            id="a device that computes nothing is refused by name",
        ),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelInvalid) as raised:
        TorchSampler(str(tiny_model()), **options)
    assert str(raised.value).startswith(message)
    assert [raised.value.field] == list(options)


def test_a_logits_processor_and_a_model_class_can_be_handed_in() -> None:
    from transformers import Qwen3ForCausalLM

    seen: list[int] = []

    class Loud(Qwen3ForCausalLM):  # type: ignore[no-untyped-call]
        pass

    def only_even(ids: Any, logits: Any) -> Any:
        seen.append(len(ids))
        return logits.index_fill(1, torch.arange(1, logits.shape[1], 2), -torch.inf)

    harness = TorchHarness(model_cls=Loud, logits_processor=only_even, slots=2)
    assert type(harness.engine.model) is Loud
    found = harness.run(ask(prompt_of(6), max_tokens=20), ask(prompt_of(4), max_tokens=20))
    harness.engine.close()
    assert max(seen) == 2
    assert all(token % 2 == 0 for one in found for token in one.tokens)


@pytest.mark.parametrize(
    "served", ["attention_only", "rank_64", "rslora", "rank_pattern", "first_layer_only"]
)
def test_an_adapter_of_a_served_kind_equals_peft(served: str) -> None:
    harness = TorchHarness(slots=4)
    harness.engine.load_adapter("x", tiny_adapter(served))
    requests = [ask(prompt_of(20, i), adapter=name) for i, name in enumerate(("x", None, "x"))]
    found = harness.run(*requests)
    harness.engine.close()
    for request, one in zip(requests, found, strict=True):
        ids = [*request.prompt_ids.tolist(), *one.tokens]
        logits = reference().logits(ids, served if request.adapter else None)
        rows = np.stack([log_softmax(row) for row in logits[:-1]])[-len(one.tokens) :]
        found_rows = rows[np.arange(len(rows)), one.tokens]
        assert np.abs(found_rows - one.logprobs).max() <= TOLERANCE


def test_adapters_are_refused_typed_and_harm_nothing(tmp_path: Path) -> None:
    harness = TorchHarness(slots=2, max_adapters=2, max_lora_rank=32)
    load = harness.engine.load_adapter
    try:
        for kind in ("dora", "lm_head", "embeddings", "modules_to_save", "bias", "rank_64"):
            with pytest.raises(AdapterUnsupported):
                load(kind, tiny_adapter(kind))
        with pytest.raises(AdapterInvalid):
            load("nothing", tmp_path)
        with pytest.raises(AdapterInvalid, match="no place"):
            load("deeper", deeper_adapter(tmp_path))
        load("a1", tiny_adapter("a1"))
        load("a2", tiny_adapter("a2"))
        with pytest.raises(AdapterCapacity):
            load("a3", tiny_adapter("a3"))
        running = ask(prompt_of(5), adapter="a1", max_tokens=1000, ignore_eos=True)
        harness.engine.submit([running])
        harness.wait(lambda: harness.has_started(running))
        with pytest.raises(AdapterCapacity):
            harness.engine.unload_adapter("a1")
        harness.engine.unload_adapter("a2")
        load("a3", tiny_adapter("a3"))
        harness.engine.cancel([running.key])
        request = ask(prompt_of(20), max_tokens=6, ignore_eos=True)
        found = harness.run(request)[0]
        logits = reference().logits([*request.prompt_ids.tolist(), *found.tokens])
        rows = np.stack([log_softmax(row) for row in logits[:-1]])[-6:]
        assert np.abs(rows[np.arange(6), found.tokens] - found.logprobs).max() <= TOLERANCE
    finally:
        harness.engine.close()


def deeper_adapter(directory: Path) -> Path:
    """An adapter with tensors for a layer that the model does not have."""
    import shutil

    from safetensors.torch import load_file, save_file

    target = directory / "deeper"
    shutil.copytree(tiny_adapter("a1"), target)
    file = target / "adapter_model.safetensors"
    tensors = load_file(file)
    more = {k.replace("layers.1.", "layers.7."): v.clone() for k, v in tensors.items()}
    save_file({**tensors, **more}, file)
    return target


def test_the_directory_of_a_tiny_model_says_what_the_engine_announces() -> None:
    harness = TorchHarness(slots=3, kv_tokens=1024)
    info = harness.engine.info
    harness.engine.close()
    assert info.model == str(tiny_model())
    assert (info.vocab_size, info.context_limit, info.slots, info.eos_ids) == (1024, 1024, 3, (2,))
    assert info.logprobs_modes == ("processed", "raw")
