"""Base models made of numpy arrays: directories that can be checked and named by their digest, for
tests that need neither torch nor a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sampler_core.safetensors_file import Tensor, encode_safetensors

__all__ = ["CONFIG", "INDEX", "SHARDS", "WEIGHTS", "write_base", "write_shard"]

INDEX: Final = "model.safetensors.index.json"
SHARDS: Final = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WEIGHTS: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    SHARDS[0]: {"model.a.weight": (4, 3), "model.b.weight": (4, 3)},
    SHARDS[1]: {"lm_head.weight": (5, 3), "model.norm.weight": (3,)},
}
CONFIG: Final[Mapping[str, Any]] = {
    "model_type": "x",
    "dtype": "float32",
    "hidden_size": 3,
    "transformers_version": "5",
}


def write_shard(
    path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, dtype: str = "F32"
) -> None:
    """Random tensors."""
    rng = np.random.default_rng(seed)
    kind = {"F32": np.float32, "F16": np.float16}[dtype]
    tensors = {}
    for name, shape in shapes.items():
        data = rng.normal(size=shape).astype(kind).tobytes()
        tensors[name] = Tensor(name, dtype, shape, memoryview(data))
    path.write_bytes(encode_safetensors(tensors))


def write_base(directory: Path, seed: int = 0) -> Path:
    """A model of two shards with a config and a tokenizer; another seed is other weights."""
    directory.mkdir()
    for number, (shard, shapes) in enumerate(WEIGHTS.items()):
        write_shard(directory / shard, shapes, 2 * seed + number)
    names = {name: shard for shard, shapes in WEIGHTS.items() for name in shapes}
    (directory / INDEX).write_text(json.dumps({"weight_map": names}))
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    return directory
