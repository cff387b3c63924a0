"""Safetensors files without torch: a strict reader and a writer.

Everything that identifies weights reads files through this module, so it accepts only what is
unambiguous: known dtypes, tensors back to back, nothing before, between or behind them.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "DTYPE_BITS",
    "SafetensorsError",
    "Tensor",
    "TensorInfo",
    "encode_safetensors",
    "parse_safetensors",
    "read_header",
]

Buffer = bytes | bytearray | memoryview

DTYPE_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element, by the format's name of the dtype."""

MAX_HEADER_BYTES: Final = 100_000_000
_PREFIX_BYTES: Final = 8
_ALIGNMENT: Final = 8


class SafetensorsError(ValueError):
    """A file that is no well-formed safetensors file; the message names the file and the tensor.

    Callers turn it into the error of what they read: an adapter's or a model's.
    """


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of a header; ``start`` and ``end`` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor as it is stored: ``data`` holds the elements in C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def parse_safetensors(data: Buffer, label: str) -> dict[str, Tensor]:
    """All tensors of a file's bytes, sorted by name, as views of ``data``.

    ``label`` names the file in errors. Raises SafetensorsError.
    """
    view = memoryview(data).cast("B")
    header = _header_bytes(view[:_PREFIX_BYTES], len(view), label)
    end = _PREFIX_BYTES + header
    infos = _parse_header(bytes(view[_PREFIX_BYTES:end]), end, len(view), label)
    return {
        info.name: Tensor(info.name, info.dtype, info.shape, view[info.start : info.end])
        for info in infos
    }


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The header of a file on disk, sorted by name, without reading any tensor.

    Raises SafetensorsError, and OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = _header_bytes(file.read(_PREFIX_BYTES), size, str(path))
        head = file.read(length)
    if len(head) != length:
        raise SafetensorsError(f"{path}: truncated while it was read")
    infos = _parse_header(head, _PREFIX_BYTES + length, size, str(path))
    return {info.name: info for info in infos}


def encode_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of these tensors: sorted by name, equal bytes for equal tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = position + tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    parts: list[Buffer] = [len(head).to_bytes(_PREFIX_BYTES, "little"), head]
    parts += [tensors[name].data for name in sorted(tensors)]
    return b"".join(parts)


def _header_bytes(prefix: Buffer, size: int, label: str) -> int:
    if len(prefix) < _PREFIX_BYTES:
        raise SafetensorsError(
            f"{label}: {size} bytes are too few for a safetensors file (empty or truncated)"
        )
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(
            f"{label}: no safetensors file (its first 8 bytes ask for a header of {length} bytes)"
        )
    if length > size - _PREFIX_BYTES:
        raise SafetensorsError(
            f"{label}: truncated, the header alone has {length} bytes, the file {size}"
        )
    return length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SafetensorsError(f"{twice!r} is there twice")
    return found


def _parse_header(head: bytes, data_start: int, size: int, label: str) -> list[TensorInfo]:
    try:
        header = json.loads(head.decode("utf-8"), object_pairs_hook=_unique)
    except SafetensorsError as error:
        raise SafetensorsError(f"{label}: malformed header, {error}") from None
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"{label}: malformed header, no JSON ({error})") from None
    if not isinstance(header, dict):
        raise SafetensorsError(f"{label}: malformed header, not a JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not isinstance(metadata, dict):
        raise SafetensorsError(f"{label}: malformed header, __metadata__ is not an object")
    infos = [_entry(name, entry, data_start, label) for name, entry in header.items()]
    _check_layout(infos, data_start, size, label)
    return sorted(infos, key=lambda info: info.name)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _entry(name: str, entry: object, data_start: int, label: str) -> TensorInfo:
    where = f"{label}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"{where} needs exactly dtype, shape and data_offsets in the header")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise SafetensorsError(f"{where} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise SafetensorsError(f"{where} has the impossible shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise SafetensorsError(f"{where} has the impossible offsets {offsets!r}")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if (end - begin) * 8 != bits:
        raise SafetensorsError(
            f"{where} of shape {tuple(shape)} and dtype {dtype} needs {bits / 8:g} bytes, "
            f"its offsets {begin}..{end} give {end - begin}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_layout(infos: list[TensorInfo], data_start: int, size: int, label: str) -> None:
    position = data_start
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        if info.start != position:
            what = "overlaps another tensor" if info.start < position else "leaves a gap before it"
            raise SafetensorsError(f"{label}: tensor {info.name!r} {what}")
        if info.end > size:
            raise SafetensorsError(
                f"{label}: truncated, tensor {info.name!r} ends at byte {info.end}, "
                f"the file has {size}"
            )
        position = info.end
    if position != size:
        raise SafetensorsError(f"{label}: {size - position} bytes behind the last tensor")
