"""Copies of adapters on this machine's disk, each for as long as somebody holds it.

Trainers overwrite their directories, and publish every few seconds: a copy is made of every
revision, and none may stay that nobody can ask for any more.
"""

import itertools
import os
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from sampler_api.names import SHA256_PREFIX

from .adapters import AdapterSnapshot, write_snapshot

__all__ = ["KeptSnapshot", "KeptSnapshots"]


class KeptSnapshot:
    """The directory ``path`` with one revision's files. It goes with the last reference to this
    object: of the name that is bound to it, of a call or stream whose sequences may need it."""

    __slots__ = ("__weakref__", "path", "source")

    def __init__(self, path: Path, source: str) -> None:
        self.path = str(path)
        self.source = source
        # At exit the folder of all copies goes, if it is there for this process alone.
        weakref.finalize(self, _remove, path, os.getpid()).atexit = False


class KeptSnapshots:
    """Writes copies below ``directory()``. Thread-safe."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._by_digest: weakref.WeakValueDictionary[str, KeptSnapshot] = (
            weakref.WeakValueDictionary()
        )
        self._by_path: weakref.WeakValueDictionary[str, KeptSnapshot] = (
            weakref.WeakValueDictionary()
        )
        self._numbers = itertools.count()

    def keep(self, snapshot: AdapterSnapshot) -> KeptSnapshot:
        """The copy of a snapshot; the one that is there, if somebody holds it."""
        with self._lock:
            kept = self._by_digest.get(snapshot.digest)
        if kept is not None:
            return kept
        # Numbered: an older copy of the same bytes may be on its way out.
        name = f"{snapshot.digest.removeprefix(SHA256_PREFIX)}-{next(self._numbers)}"
        path = self._directory() / name
        write_snapshot(snapshot, path)
        kept = KeptSnapshot(path, snapshot.source or "adapter")
        with self._lock:
            self._by_path[kept.path] = kept
            return self._by_digest.setdefault(snapshot.digest, kept)

    def source_of(self, path: str) -> str:
        """What the caller knows a copy as; any other path is itself."""
        with self._lock:
            kept = self._by_path.get(path)
        return path if kept is None else kept.source


def _remove(path: Path, process: int) -> None:
    # A forked child forgets the object too, but the files are its parent's.
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
