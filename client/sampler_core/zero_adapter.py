"""The adapter that a PEFT config describes before its first training step.

B is zero, so it changes nothing; A comes from a counter-based generator with a fixed seed, so that
every replica makes the same bytes under one digest.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import AdapterInvalid, AdapterUnsupported

from .adapter_config import peft_config_dict
from .adapter_identity import AdapterSnapshot, make_snapshot
from .adapter_targets import rank_of, selects
from .adapter_tensors import PREFIX
from .safetensors_file import Tensor

__all__ = ["zero_adapter"]

_SEED: Final = 0x5AFE_7E50
_TENSOR_PARTS: Final = ("use_dora", "lora_bias", "modules_to_save", "target_parameters")


def zero_adapter(config: object, shapes: Mapping[str, tuple[int, int]]) -> AdapterSnapshot:
    """The zero adapter of a PEFT config (mapping or object), float32.

    ``shapes`` gives ``(out, in)`` of every linear module of the base. Raises AdapterInvalid when
    the config selects none of them, AdapterUnsupported for kinds with more tensors than A and B.
    """
    fields = peft_config_dict(config)
    if fields is None:
        raise AdapterInvalid(f"config: a {type(config).__name__} is no PEFT config", "config")
    for field in _TENSOR_PARTS:
        if fields.get(field):
            raise AdapterUnsupported(f"config: {field} is not served; leave it out", field)
    if not fields.get("target_modules"):
        raise AdapterInvalid(
            "config: target_modules must name the modules, for example 'all-linear'",
            "target_modules",
        )
    modules = [module for module in sorted(shapes) if selects(fields, module)]
    if not modules:
        raise AdapterInvalid(
            f"config: target_modules {fields['target_modules']!r} selects no linear module of the "
            f"base (it has {', '.join(sorted({m.rpartition('.')[2] for m in shapes}))})",
            "target_modules",
        )
    tensors: dict[str, Tensor] = {}
    for module in modules:
        out_size, in_size = shapes[module]
        rank = rank_of(fields, module)
        name = f"{PREFIX}{module}.lora_A.weight"
        tensors[name] = _tensor(name, _uniform(name, rank, in_size))
        name = f"{PREFIX}{module}.lora_B.weight"
        tensors[name] = _tensor(name, np.zeros((out_size, rank), np.float32))
    # How A was to be initialised does not matter any more: what is here is what is served.
    return make_snapshot({**fields, "init_lora_weights": True}, tensors)


def _tensor(name: str, values: NDArray[np.float32]) -> Tensor:
    return Tensor(name, "F32", values.shape, memoryview(values.astype("<f4").tobytes()))


def _uniform(name: str, rank: int, in_size: int) -> NDArray[np.float32]:
    """Uniform in ±1/sqrt(in), f32 [rank, in]: a pure function of name and position."""
    start = np.uint64(_SEED << 32 | zlib.crc32(name.encode()))
    with np.errstate(over="ignore"):
        # SplitMix64 of a counter: integer arithmetic, the same on every machine.
        z = np.arange(1, rank * in_size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    # 24 bits: every step below is exact in float32 but the last product.
    unit = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    bound = np.float32(1 / math.sqrt(in_size))
    scaled: NDArray[np.float32] = unit * bound
    return scaled.reshape(rank, in_size)
