"""SHA-256 of large files, remembered by the file's identity: a restart does not hash again."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sampler_api.errors import ModelInvalid

__all__ = ["cache_directory", "file_sha256"]

# A file that was written this recently could change again without its times showing it.
_SETTLED_NS: Final = 2_000_000_000
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS: Final = 3


def cache_directory(name: str = "digests") -> Path:
    """Where things are remembered: below ``XDG_CACHE_HOME``, else ``~/.cache``; for a user without
    a home below the folder of temporary files."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        root = Path(given)
    else:
        try:
            root = Path.home() / ".cache"
        except RuntimeError:
            root = Path(tempfile.gettempdir())
    return root / "sampler-operator" / name


def file_sha256(
    path: Path, cache: Path | None = None, now_ns: Callable[[], int] = time.time_ns
) -> str:
    """SHA-256 of a file's content, hexadecimal.

    A link into a hub cache's blobs names its digest. ``cache``: a directory of remembered digests;
    without one, or where it cannot be written, the content is hashed. Raises ModelInvalid when the
    file cannot be read or keeps changing.
    """
    try:
        resolved = path.resolve(strict=True)
        if path.is_symlink() and resolved.parent.name == "blobs" and _HEX.fullmatch(resolved.name):
            return resolved.name
        for _ in range(_ATTEMPTS):
            stamp = _stamp(resolved)
            entry = cache / _key(resolved, stamp) if cache else None
            found = _recall(entry) if entry else None
            if found:
                return found
            with resolved.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if _stamp(resolved) != stamp:
                continue
            if entry and now_ns() - max(stamp[2:]) > _SETTLED_NS:
                _remember(entry, digest)
            return digest
    except (OSError, RuntimeError) as error:
        raise ModelInvalid(f"{path}: cannot be read ({error})", "model") from None
    raise ModelInvalid(f"{path}: kept changing while it was read", "model")


def _stamp(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _key(path: Path, stamp: tuple[int, ...]) -> str:
    return hashlib.sha256(repr((str(path), *stamp)).encode()).hexdigest()


def _recall(entry: Path) -> str | None:
    try:
        digest = entry.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return digest if _HEX.fullmatch(digest) else None


def _remember(entry: Path, digest: str) -> None:
    # Without a cache everything works, only slower.
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=entry.parent)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(digest)
            os.replace(draft, entry)
        except OSError:
            os.unlink(draft)
            raise
