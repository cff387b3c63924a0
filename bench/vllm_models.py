"""A model of which only the shape matters: vLLM fills it with dummy weights."""

from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = ["VOCABULARY", "dummy_model"]

VOCABULARY: Final = 151_936


def dummy_model(folder: Path) -> Path:
    """The shape of Qwen2.5-0.5B in ``folder``: config, a tokenizer without merges, and a file in
    the place of weights."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    config = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        dtype="bfloat16",
        eos_token_id=2,
    )
    config.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet]
    names += [f"w{number}" for number in range(len(names), VOCABULARY)]
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=core, eos_token="<|im_end|>").save_pretrained(folder)
    save_file({"model.norm.weight": np.zeros(896, np.float32)}, folder / "model.safetensors")
    return folder
