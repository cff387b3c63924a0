"""Tensors of an adapter, wherever they come from, and what their names say.

Names are those that PEFT saves: ``base_model.model.<module>.lora_A.weight`` and so on, without the
adapter's name in them.
"""

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import AdapterInvalid

from .safetensors_file import Tensor

__all__ = [
    "PREFIX",
    "lora_modules",
    "lora_part",
    "non_finite",
    "tensors_of_state_dict",
]

PREFIX: Final = "base_model.model."

_PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|B\.bias|embedding_A|embedding_B"
    r"|magnitude_vector(?:\.weight)?)"
)
_NAMED_PART = re.compile(
    r"\.lora_(?:[AB]\.[^.]+\.(?:weight|bias)|embedding_[AB]\.[^.]+|magnitude_vector\.[^.]+\.weight)$"
)
_NUMPY_DTYPES: Final = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
# Bits of the exponent (and, where only one pattern is NaN, of the mantissa) that are all set in
# every value that is not finite.
_NON_FINITE_MASKS: Final[Mapping[str, tuple[str, int]]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
_CHUNK_ELEMENTS: Final = 1 << 20


def lora_part(name: str) -> tuple[str, str] | None:
    """Module and part (``A.weight``, ``B.weight``, ...) of a tensor; ``None``: no LoRA tensor."""
    if not name.startswith(PREFIX):
        return None
    match = _PART.fullmatch(name, len(PREFIX))
    return (match["module"], match["part"]) if match else None


def lora_modules(names: Iterable[str]) -> set[str]:
    """Full names of the modules that have LoRA tensors among ``names``."""
    return {part[0] for part in map(lora_part, names) if part is not None}


def non_finite(tensor: Tensor) -> str | None:
    """``NaN`` or ``infinity`` when the tensor holds one, else ``None``; integers never do."""
    layout = _NON_FINITE_MASKS.get(tensor.dtype)
    if layout is None:
        return None
    dtype, mask = layout
    bits = np.frombuffer(tensor.data, dtype)
    for start in range(0, len(bits), _CHUNK_ELEMENTS):
        chunk = bits[start : start + _CHUNK_ELEMENTS]
        bad = chunk[(chunk & mask) == mask]
        if len(bad):
            sign = 1 << (bits.itemsize * 8 - 1)
            is_infinite = tensor.dtype != "F8_E4M3" and int(bad[0]) & ~sign == mask
            return "infinity" if is_infinite else "NaN"
    return None


def tensors_of_state_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of a state dict's tensors (torch or numpy, any device), sorted by name.

    Raises AdapterInvalid for other values, and for names that still carry an adapter's name.
    """
    return dict(_copies(state))


def _copies(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name in sorted(state, key=str):
        if not isinstance(name, str):
            raise AdapterInvalid(f"state dict: {name!r} is no tensor name", "state_dict")
        if _NAMED_PART.search(name):
            raise AdapterInvalid(
                f"state dict: {name!r} carries an adapter's name; pass what "
                "peft.get_peft_model_state_dict(model) returns",
                "state_dict",
            )
        value = state[name]
        yield name, _of_torch(name, value) if hasattr(value, "detach") else _of_numpy(name, value)


def _of_numpy(name: str, value: object) -> Tensor:
    dtype = _NUMPY_DTYPES.get(value.dtype.name) if isinstance(value, np.ndarray) else None
    if not isinstance(value, np.ndarray) or dtype is None:
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise AdapterInvalid(f"state dict: {name!r} is no tensor ({kind})", "state_dict")
    return Tensor(name, dtype, value.shape, memoryview(_little(value).tobytes()))


def _of_torch(name: str, value: Any) -> Tensor:
    # Not an import: whoever holds a tensor has loaded torch, and this package must not need it.
    torch = sys.modules.get("torch") or importlib.import_module("torch")
    dtype = _NUMPY_DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None:
        raise AdapterInvalid(f"state dict: {name!r} has the dtype {value.dtype}", "state_dict")
    if value.device.type == "meta":
        raise AdapterInvalid(
            f"state dict: {name!r} has no data (device meta); gather it first", "state_dict"
        )
    shape = tuple(int(size) for size in value.shape)
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    array: NDArray[np.uint8] = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, "u1")
    data = array.tobytes()
    if sys.byteorder != "little":
        width = value.element_size()
        data = array.reshape(-1, width)[:, ::-1].tobytes()
    return Tensor(name, dtype, shape, memoryview(data))


def _little(array: NDArray[Any]) -> NDArray[Any]:
    is_big = array.dtype.byteorder == ">" or (
        array.dtype.byteorder == "=" and sys.byteorder != "little"
    )
    return array.byteswap() if is_big else array
