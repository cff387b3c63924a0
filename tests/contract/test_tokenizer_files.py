"""The tokenizer's files that a server hands out are enough to build the same tokenizer."""

from pathlib import Path

import pytest
from tests.tiny_models import tiny_model

from sampler_core.bases import base_digest, linear_shapes, tokenizer_files


def test_a_tokenizer_built_from_the_files_encodes_and_renders_as_the_models_own(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    for name, content in tokenizer_files(tiny_model()).items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tiny_model())
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "def f(x): return x  # «ä»"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(
        messages, tokenize=False
    )
    assert ours(messages[0]["content"]).input_ids == theirs(messages[0]["content"]).input_ids
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)


def test_shapes_from_the_headers_are_those_of_the_models_modules() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("qwen2"))
    modules = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
    assert linear_shapes(tiny_model("qwen2")) == modules


def test_architectures_have_different_digests(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    digests = {base_digest(tiny_model(name), tmp_path) for name in ("llama", "qwen2", "qwen3")}
    assert len(digests) == 3
