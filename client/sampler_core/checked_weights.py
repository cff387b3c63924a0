"""New weights for a base that is being served, checked whole before anything is touched.

A directory may replace a base when nothing but the values of its tensors differs: the same config,
names, shapes and dtypes of tensors, and tokenizer. Everything that can be wrong with files is found
here, while the old weights serve: an engine that is halfway through new ones has no way back.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import AdapterError, ModelInvalid, Unsupported, WeightsInvalid

from .adapter_files import resolve_below
from .adapter_tensors import non_finite
from .base_files import (
    CONFIG_FILE,
    INDEX_FILE,
    forward_config,
    read_headers,
    tokenizer_files,
    weight_shards,
)
from .bases import base_digest
from .safetensors_file import DTYPE_BITS, Tensor, TensorInfo

__all__ = ["BaseLayout", "CheckedWeights", "base_layout", "check_weights", "weights_directory"]

_FIELD: Final = "directory"
_FILE: Final = "file://"
_CHUNK_BYTES: Final = 16 << 20
_THREADS: Final = 4
# Times of files move in steps of the kernel's tick: a write within it does not change them.
_TICK_NS: Final = 50_000_000
_DTYPE: Final = "dtype"

_Stamp = tuple[str, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class BaseLayout:
    """What the replacement of a base must have too; ``tokenizer`` is sha256 by file name."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    tokenizer: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """A directory whose weights may replace those of the base; ``digest`` is its base digest."""

    directory: Path
    digest: str
    stamps: tuple[_Stamp, ...]

    def check_unchanged(self) -> None:
        """Raises WeightsInvalid when a file is another one than the one that was checked."""
        changed = set(self.stamps) ^ set(_stamps(self.directory))
        if changed:
            name = Path(min(changed)[0]).name
            raise WeightsInvalid(
                f"{self.directory}: {name} was changed while it was read; write each step into a "
                "directory of its own",
                _FIELD,
            )


def base_layout(model_dir: str | Path) -> BaseLayout:
    """What a replacement of this base must have. Raises ModelInvalid."""
    directory = Path(model_dir)
    headers = read_headers(weight_shards(directory))
    return BaseLayout(
        forward_config(directory),
        {info.name: (info.dtype, info.shape) for infos in headers.values() for info in infos},
        _tokenizer(directory),
    )


def weights_directory(dir_or_uri: str | Path) -> Path:
    """The directory that a path or ``file://`` URI names. Raises Unsupported, WeightsInvalid."""
    text = str(dir_or_uri).removeprefix(_FILE)
    scheme, found, _ = text.partition("://")
    if found:
        raise Unsupported(
            f"directory: {scheme}:// is not read; give a directory of a volume that this replica "
            "sees, or file://",
            _FIELD,
        )
    if not Path(text).is_absolute():
        raise WeightsInvalid(f"directory: {text!r} must be an absolute path", _FIELD)
    return Path(text)


def check_weights(
    directory: Path,
    layout: BaseLayout | None,
    roots: Sequence[Path] | None = None,
    *,
    now_ns: Callable[[], int] = time.time_ns,
    pause: Callable[[float], None] = time.sleep,
) -> CheckedWeights:
    """Read and compare everything, and name the weights by their digest. Blocks.

    ``layout`` is that of the base (``None``: of a model that came from no files, which only the
    engine can compare); with ``roots`` the directory and its files must lie below one. Raises
    WeightsInvalid, which names the file.
    """
    try:
        if roots is not None:
            directory = resolve_below(directory, roots)
        shards = weight_shards(directory)
        if roots is not None:
            for path in _files(directory):
                if path.exists():
                    resolve_below(path, roots)
        stamps = _stamps(directory)
        youngest = max(max(stamp[4:]) for stamp in stamps)
        if 0 <= now_ns() - youngest <= _TICK_NS:
            pause(_TICK_NS / 1e9)
            stamps = _stamps(directory)
        headers = read_headers(shards)
        if layout is not None:
            _compare(directory, layout, headers)
        _check_values(headers)
        checked = CheckedWeights(directory, base_digest(directory), stamps)
    except (AdapterError, ModelInvalid) as error:
        raise WeightsInvalid(error.message, _FIELD) from None
    checked.check_unchanged()
    return checked


def _compare(
    directory: Path, layout: BaseLayout, headers: Mapping[Path, Sequence[TensorInfo]]
) -> None:
    config = forward_config(directory)
    names = config.keys() | layout.config.keys()
    if _DTYPE not in config.keys() & layout.config.keys():
        # A trainer may leave it out; what counts are the tensors.
        names.discard(_DTYPE)
    for name in sorted(names):
        if config.get(name) != layout.config.get(name):
            raise WeightsInvalid(
                f"{directory / 'config.json'}: {name}: {config.get(name)!r}, the base has "
                f"{layout.config.get(name)!r}; another architecture needs another fleet",
                _FIELD,
            )
    found = {info.name: (shard, info) for shard, infos in headers.items() for info in infos}
    for name in sorted(layout.tensors.keys() - found.keys()):
        raise WeightsInvalid(f"{directory}: holds no tensor {name!r}, which the base has", _FIELD)
    for name, (shard, info) in sorted(found.items()):
        wanted = layout.tensors.get(name)
        if wanted is None:
            raise WeightsInvalid(f"{shard}: {name!r} is no tensor of the base", _FIELD)
        dtype, shape = wanted
        if info.shape != shape:
            raise WeightsInvalid(
                f"{shard}: {name!r} has the shape {list(info.shape)}, the base {list(shape)}",
                _FIELD,
            )
        if info.dtype != dtype:
            raise WeightsInvalid(
                f"{shard}: {name!r} is {info.dtype}, the base {dtype}; save it in the dtype of the "
                "base",
                _FIELD,
            )
    tokenizer = _tokenizer(directory)
    # Of config.json everything has been compared.
    for name in sorted((tokenizer.keys() | layout.tokenizer.keys()) - {CONFIG_FILE}):
        if tokenizer.get(name) != layout.tokenizer.get(name):
            what = "differs from" if name in tokenizer else "is missing, unlike in"
            raise WeightsInvalid(
                f"{directory / name}: {what} the tokenizer of the base; copy that one's files into "
                "the directory",
                _FIELD,
            )


def _check_values(headers: Mapping[Path, Sequence[TensorInfo]]) -> None:
    with ThreadPoolExecutor(_THREADS, "weights") as pool:
        # In order: the first error of the first file is told.
        for _ in pool.map(_check_file, headers, headers.values()):
            pass


def _check_file(path: Path, infos: Sequence[TensorInfo]) -> None:
    """Raises WeightsInvalid for NaN and infinity, and for what cannot be read."""
    try:
        with path.open("rb") as file:
            for info in infos:
                width = DTYPE_BITS[info.dtype] // 8
                if width:
                    _check_tensor(path, file, info, width)
    except OSError as error:
        raise WeightsInvalid(f"{path}: cannot be read ({error.strerror})", _FIELD) from None


def _check_tensor(path: Path, file: Any, info: TensorInfo, width: int) -> None:
    file.seek(info.start)
    left = info.end - info.start
    while left:
        data = file.read(min(left, _CHUNK_BYTES))
        if not data or len(data) % width:
            raise WeightsInvalid(f"{path}: truncated while it was read", _FIELD)
        left -= len(data)
        part = Tensor(info.name, info.dtype, (len(data) // width,), memoryview(data))
        what = non_finite(part)
        if what is not None:
            raise WeightsInvalid(f"{path}: {info.name!r} holds {what}", _FIELD)


def _tokenizer(directory: Path) -> dict[str, str]:
    files = tokenizer_files(directory)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _files(directory: Path) -> list[Path]:
    """Everything that the digest is of, and the index; a trainer may keep more there."""
    names = {CONFIG_FILE, INDEX_FILE, *tokenizer_files(directory)}
    return sorted({directory / name for name in names} | set(weight_shards(directory)))


def _stamps(directory: Path) -> tuple[_Stamp, ...]:
    found = []
    for path in _files(directory):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        times = state.st_mtime_ns, state.st_ctime_ns
        found.append((str(path), state.st_dev, state.st_ino, state.st_size, *times))
    return tuple(found)
