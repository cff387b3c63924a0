"""Folders in the temporary directory that do not outlive their process, however it ends.

Each has a lock beside it that its process holds; the kernel lets go of it when the process dies.
Whoever makes a folder removes those whose lock is free.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO, Final, Self

__all__ = ["ScratchFolder"]

log = logging.getLogger(__name__)

_LOCK: Final = ".lock"


class ScratchFolder:
    """An empty directory ``path`` of this process; it goes with ``close``, with this object, or
    after the process."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = _own_parent() if parent is None else parent
        _remove_abandoned(parent)
        self._lock, lock_path = _new_lock(parent)
        self.path = lock_path.with_suffix("")
        self.path.mkdir(mode=0o700)
        self._end = weakref.finalize(self, _remove, self._lock, lock_path, os.getpid())

    def close(self) -> None:
        """Remove it. Idempotent."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _own_parent() -> Path:
    """The directory of this user's folders. Raises PermissionError if another user made it."""
    parent = Path(tempfile.gettempdir()) / f"sampler-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    # What is in there will be removed: not behind a link, nor where others can put things.
    found = parent.lstat()
    if parent.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{parent}: must be a directory that only this user may write; remove it, or set TMPDIR"
        )
    return parent


def _new_lock(parent: Path) -> tuple[IO[bytes], Path]:
    while True:
        descriptor, name = tempfile.mkstemp(_LOCK, "", parent)
        lock = os.fdopen(descriptor, "wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, Path(name)):
            return lock, Path(name)
        # Somebody took it for abandoned before it was locked.
        lock.close()


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"*{_LOCK}"):
        try:
            lock = path.open("rb")
        except OSError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _is_at(lock, path):
                log.info("removing %s, whose process has died", path.with_suffix(""))
                _remove_both(path)


def _is_at(lock: IO[bytes], path: Path) -> bool:
    """The lock is still the one that has this name."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(lock: IO[bytes], path: Path, process: int) -> None:
    # A forked child has the object and the lock too, but not the folder.
    if os.getpid() == process:
        _remove_both(path)
    lock.close()


def _remove_both(lock_path: Path) -> None:
    # The lock last: without it nobody would find the folder again.
    shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
    lock_path.unlink(missing_ok=True)
