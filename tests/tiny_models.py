"""Tiny random models for exactness tests: seconds to make, no download.

Three architectures that differ where engines go wrong: Llama (plain), Qwen2 (biases on q, k and v)
and Qwen3 (norms on q and k). All share one byte-level BPE tokenizer of 1,024 tokens with a chat
template. Models are made once and kept in a cache folder, named after the recipe and the library
versions, that all test processes of a user share.
"""

import argparse
import email
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "cache_root",
    "made_once",
    "tiny_model",
    "tiny_tokenizer",
]

Architecture = Literal["llama", "qwen2", "qwen3"]
ARCHITECTURES: Final[tuple[Architecture, ...]] = ("llama", "qwen2", "qwen3")

RECIPE: Final = "1"
VOCABULARY: Final = 1024
CONTEXT: Final = 2048

_CHAT_TEMPLATE: Final = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def cache_root() -> Path:
    """The folder of everything that is made once for this user, recipe and library versions."""
    from importlib.metadata import version

    tag = f"{RECIPE}-{version('transformers')}-{version('torch').split('+')[0]}"
    root = Path(tempfile.gettempdir()) / f"sampler-operator-tiny-{os.getuid()}-{tag}"
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory ``name`` in the cache, filled by ``make`` on first use, atomically."""
    target = cache_root() / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
        try:
            make(draft)
        except BaseException:
            shutil.rmtree(draft)
            raise
        try:
            draft.rename(target)
        except OSError:
            # Another process was first; its content is the same.
            shutil.rmtree(draft)
    return target


def _make_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # Text that every Python has: no data file in the repository, no download.
    sources = (email, argparse, logging, subprocess)
    corpus = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in sources]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)


def tiny_tokenizer() -> Path:
    """The directory of the tokenizer that all tiny models share."""
    return made_once("tokenizer", _make_tokenizer)


def _make_model(architecture: Architecture, step: int, directory: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    if architecture != "qwen2":
        values["head_dim"] = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step)
        config = AutoConfig.for_model(architecture, **values)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in model.named_parameters():
                # The usual initialisation gives nearly flat logits: a wrong mask would not show.
                if weight.dim() > 1:
                    weight.normal_(0, 0.08)
                elif name.endswith("bias"):
                    weight.normal_(0, 0.3)
    model.save_pretrained(directory)
    for file in tiny_tokenizer().iterdir():
        shutil.copy(file, directory)


def tiny_model(architecture: Architecture = "qwen3", step: int = 0) -> Path:
    """The directory of a tiny model with its tokenizer (float32, EOS id 2, context 2,048).

    Another ``step`` is another set of weights and nothing else, as after a step of training.
    """
    name = f"{architecture}-step-{step}" if step else architecture
    return made_once(name, lambda directory: _make_model(architecture, step, directory))


if __name__ == "__main__":
    for each in ARCHITECTURES:
        print(tiny_model(each))
