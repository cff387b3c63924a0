"""LoRA adapters made of numpy arrays, for tests that need neither torch nor a model.

The base they belong to is a table of shapes: two layers of four linear modules.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_core.adapters import AdapterSnapshot, snapshot_adapter

__all__ = ["SHAPES", "adapter_config", "adapter_state", "raw_snapshot", "write_adapter"]

SHAPES: Final[Mapping[str, tuple[int, int]]] = {
    f"model.layers.{layer}.{module}": shape
    for layer in range(2)
    for module, shape in {
        "self_attn.q_proj": (8, 6),
        "self_attn.v_proj": (4, 6),
        "mlp.up_proj": (12, 6),
        "mlp.down_proj": (6, 12),
    }.items()
} | {"model.embed_tokens": (20, 6), "lm_head": (20, 6)}
"""``(out, in)`` of every two-dimensional weight of the base."""


def adapter_config(**changes: Any) -> dict[str, Any]:
    """A PEFT config of rank 2 on the attention of :data:`SHAPES`."""
    return {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "anything",
        **changes,
    }


def adapter_state(
    seed: int = 0,
    modules: tuple[str, ...] = ("q_proj", "v_proj"),
    rank: int = 2,
    dtype: str = "float32",
) -> dict[str, NDArray[Any]]:
    """Tensors under the names that PEFT saves, for modules whose names end so."""
    rng = np.random.default_rng(seed)
    state: dict[str, NDArray[Any]] = {}
    for module, (out_size, in_size) in SHAPES.items():
        if module.rpartition(".")[2] in modules:
            prefix = f"base_model.model.{module}.lora_"
            state[prefix + "A.weight"] = rng.normal(size=(rank, in_size)).astype(dtype)
            state[prefix + "B.weight"] = rng.normal(size=(out_size, rank)).astype(dtype)
    return state


def raw_snapshot(seed: int = 0, **changes: Any) -> AdapterSnapshot:
    """A snapshot of :func:`adapter_state` and :func:`adapter_config`."""
    return snapshot_adapter(adapter_state(seed), adapter_config(**changes))


def write_adapter(
    directory: Path,
    seed: int = 0,
    *,
    config: Mapping[str, Any] | None = None,
    state: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Save an adapter in ``directory`` as a trainer would; returns the directory."""
    fields = adapter_config() if config is None else dict(config)
    snapshot = snapshot_adapter(adapter_state(seed) if state is None else state, adapter_config())
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    content = snapshot.files["adapter_model.safetensors"]
    (directory / "adapter_model.safetensors").write_bytes(content)
    return directory
