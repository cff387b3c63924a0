"""Reading an adapter's directory once, whole, and only where reading is allowed.

Trainers overwrite their directories while we read. Every file is read once, into memory; when a
file's identity, size or times differ before and after, everything is read again.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sampler_api.errors import AdapterInvalid, AdapterMissing

from .adapter_config import CONFIG_FILE
from .adapter_identity import TENSORS_FILE

__all__ = ["MAX_ADAPTER_BYTES", "read_adapter_files", "resolve_below"]

MAX_ADAPTER_BYTES: Final = 8 << 30
MAX_CONFIG_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 4
# Times of files move in steps of the kernel's tick: a write within it does not change them.
_TICK_NS: Final = 50_000_000
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_FIELD: Final = "adapter_path"

_Stamp = tuple[int, int, int, int, int]


def resolve_below(path: Path, roots: Sequence[Path]) -> Path:
    """``path`` without symlinks, when it is at or below one of the roots.

    Raises AdapterInvalid for a relative path or one outside, AdapterMissing when nothing is there.
    """
    allowed = ", ".join(map(str, roots)) or "none"
    if not path.is_absolute():
        raise AdapterInvalid(
            f"{path}: must be an absolute path below an adapter root (roots: {allowed})", _FIELD
        )
    real_roots = [root.resolve() for root in roots]
    # Before touching the file system: whether a path outside exists is nobody's business.
    if not _is_below(Path(os.path.normpath(path)), [*roots, *real_roots]):
        raise AdapterInvalid(f"{path}: outside the adapter roots ({allowed})", _FIELD)
    try:
        resolved = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterMissing(f"{path}: does not exist (adapter roots: {allowed})", _FIELD) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise AdapterInvalid(f"{path}: cannot be read ({error})", _FIELD) from None
    if not _is_below(resolved, real_roots):
        raise AdapterInvalid(
            f"{path}: a symlink leads outside the adapter roots ({allowed})", _FIELD
        )
    return resolved


def read_adapter_files(
    directory: Path,
    roots: Sequence[Path] | None = None,
    max_bytes: int = MAX_ADAPTER_BYTES,
    now_ns: Callable[[], int] = time.time_ns,
) -> dict[str, bytes]:
    """adapter_config.json and adapter_model.safetensors of a directory, of one moment.

    With ``roots`` the directory and both files must lie below them, symlinks resolved. Raises
    AdapterInvalid, naming the file and what to do, and with ``roots`` AdapterMissing when there is
    no such directory (another replica may have it).
    """
    limits = {CONFIG_FILE: MAX_CONFIG_BYTES, TENSORS_FILE: max_bytes}
    for _ in range(_ATTEMPTS):
        paths = _locate(directory, roots)
        stamps = {name: _stamp(path) for name, path in paths.items()}
        files = {name: _read(path, limits[name]) for name, path in paths.items()}
        if _locate(directory, roots) != paths:
            continue
        after = {name: _stamp(path) for name, path in paths.items()}
        if after != stamps or None in stamps.values():
            continue
        youngest = max(max(stamp[3], stamp[4]) for stamp in stamps.values() if stamp)
        if abs(now_ns() - youngest) > _TICK_NS or all(
            _read(path, limits[name]) == files[name] for name, path in paths.items()
        ):
            return files
    raise AdapterInvalid(
        f"{directory}: kept changing while it was read; write each step into a new directory, or "
        "register it after the write has finished",
        _FIELD,
    )


def _is_below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _locate(directory: Path, roots: Sequence[Path] | None) -> dict[str, Path]:
    if roots is not None:
        directory = resolve_below(directory, roots)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        error = AdapterInvalid if roots is None else AdapterMissing
        raise error(f"{directory}: no such directory", _FIELD) from None
    except NotADirectoryError:
        raise AdapterInvalid(
            f"{directory}: a file; pass the directory that holds {CONFIG_FILE}", _FIELD
        ) from None
    except (OSError, ValueError) as error:
        raise AdapterInvalid(f"{directory}: cannot be read ({error})", _FIELD) from None
    if CONFIG_FILE not in names:
        below = [name for name in names if (directory / name / CONFIG_FILE).is_file()]
        hint = f"; {', '.join(below)} below it has one" if below else ""
        raise AdapterInvalid(f"{directory}: holds no {CONFIG_FILE}{hint}", _FIELD)
    if TENSORS_FILE not in names:
        raise AdapterInvalid(f"{directory}: {_without_tensors(names)}", _FIELD)
    paths = [directory / CONFIG_FILE, directory / TENSORS_FILE]
    if roots is not None:
        return {path.name: resolve_below(path, roots) for path in paths}
    try:
        return {path.name: path.resolve(strict=True) for path in paths}
    except (OSError, RuntimeError) as error:
        raise AdapterInvalid(f"{directory}: cannot be read ({error})", _FIELD) from None


def _without_tensors(names: Sequence[str]) -> str:
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return (
            f"{', '.join(pickles)} is a pickle, which can run code and is not read; save it again "
            "with model.save_pretrained(directory, safe_serialization=True)"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    hint = f" ({', '.join(others)} is not read)" if others else ""
    return f"holds no {TENSORS_FILE}{hint}"


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, limit: int) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer.
        # O_NOFOLLOW: the path is resolved, a link can only have come since.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""  # replaced just now: the stamps differ
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise AdapterInvalid(f"{path}: not a regular file", _FIELD)
        if found.st_size > limit:
            raise AdapterInvalid(
                f"{path}: {found.st_size} bytes, more than the {limit} that are read", _FIELD
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> AdapterInvalid:
    reason = os.strerror(error.errno or errno.EIO)
    return AdapterInvalid(f"{path}: cannot be read ({reason})", _FIELD)
