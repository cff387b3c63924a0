"""Good LoRA adapters for the tiny models, saved the way trainers save them (PEFT, safetensors)."""

import warnings
from pathlib import Path
from typing import Any, Final

from tests.tiny_models import Architecture, made_once, tiny_model

__all__ = ["KINDS", "tiny_adapter"]

ALL_LINEAR: Final = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)

KINDS: Final[dict[str, dict[str, Any]]] = {
    "a1": {"seed": 1},
    "a2": {"seed": 2},
    "a3": {"seed": 3},
    "attention_only": {"seed": 4, "target_modules": ["q_proj", "v_proj"]},
    "rank_64": {"seed": 5, "r": 64},
    "rslora": {"seed": 6, "use_rslora": True},
    "rank_pattern": {"seed": 7, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 32}},
    "first_layer_only": {"seed": 8, "layers_to_transform": [0]},
    "dora": {"seed": 9, "use_dora": True},
    "lm_head": {"seed": 10, "target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"seed": 11, "target_modules": ["q_proj", "embed_tokens"]},
    "modules_to_save": {"seed": 12, "modules_to_save": ["lm_head"]},
    "lora_bias": {"seed": 13, "lora_bias": True},
    "bias": {"seed": 14, "bias": "lora_only"},
}
"""Name of each kind and what differs from rank 8, alpha 16 on all linear layers."""


def _make(kind: str, architecture: Architecture, directory: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    values = dict(KINDS[kind])
    seed = values.pop("seed")
    config = LoraConfig(
        r=values.pop("r", 8),
        lora_alpha=16,
        target_modules=values.pop("target_modules", list(ALL_LINEAR)),
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        **values,
    )
    base = tiny_model(architecture)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT warns about kinds that cannot be merged, and about one-dimensional tensors.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
        )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name and "magnitude" not in name:
                    # Large enough that base and adapters choose other tokens.
                    weight.normal_(0, 0.1)
        # "auto" would ask a hub whether the base has resized embeddings.
        model.save_pretrained(str(directory), save_embedding_layers=kind == "embeddings")


def tiny_adapter(kind: str = "a1", architecture: Architecture = "qwen3") -> Path:
    """The directory of an adapter of this kind (a key of ``KINDS``) for a tiny model."""
    return made_once(f"adapters-{architecture}/{kind}", lambda d: _make(kind, architecture, d))


if __name__ == "__main__":
    for each in KINDS:
        print(tiny_adapter(each))
