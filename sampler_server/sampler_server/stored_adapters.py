"""Adapters on the server's disk, each in a directory named after its content.

One process owns the directory. What an earlier process left is trusted only after it has been read
again. Methods block; any thread may call them.
"""

import errno
import logging
import re
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sampler_api.errors import AdapterCapacity, AdapterError
from sampler_api.names import SHA256_PREFIX
from sampler_core.adapters import AdapterSnapshot, snapshot_adapter, write_snapshot

__all__ = ["StoredAdapters"]

log = logging.getLogger(__name__)

_HEX: Final = re.compile(r"[0-9a-f]{64}")


class StoredAdapters:
    """``<directory>/<sha256>/adapter_config.json`` and ``adapter_model.safetensors``.

    Beyond ``max_bytes`` the least recently used go, but never one that is pinned: engines may read
    their adapters again. ``check`` raises AdapterError for an adapter that must not be served.
    """

    def __init__(
        self, directory: Path, max_bytes: int, check: Callable[[AdapterSnapshot], None]
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._check = check
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._trusted: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime):
            if path.name.startswith(".draft-"):
                shutil.rmtree(path, ignore_errors=True)
            elif _HEX.fullmatch(path.name):
                size = sum(file.stat().st_size for file in path.iterdir())
                self._sizes[SHA256_PREFIX + path.name] = size

    @property
    def total_bytes(self) -> int:
        """Size of everything stored."""
        with self._lock:
            return sum(self._sizes.values())

    def digests(self) -> list[str]:
        """What is stored, least recently used first."""
        with self._lock:
            return list(self._sizes)

    def pin(self, digest: str) -> None:
        """Keep a digest, stored or not yet, until as many calls of ``unpin``."""
        with self._lock:
            self._pins[digest] += 1

    def unpin(self, digest: str) -> None:
        """Undo one ``pin``."""
        with self._lock:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]

    def find(self, digest: str) -> Path | None:
        """The directory of a stored digest, verified."""
        with self._lock:
            if digest not in self._sizes:
                return None
            self._sizes.move_to_end(digest)
            is_trusted = digest in self._trusted
        path = self._path(digest)
        if is_trusted:
            return path
        try:
            snapshot = snapshot_adapter(path)
            self._check(snapshot)
            found = snapshot.digest
        except AdapterError as error:
            found = str(error)
        with self._lock:
            if found == digest:
                self._trusted.add(digest)
                return path
            log.warning("stored adapter %s is dropped: %s", digest, found)
            self._remove(digest)
        return None

    def put(self, snapshot: AdapterSnapshot) -> Path:
        """Store a checked snapshot. Raises AdapterCapacity when the disk is full."""
        path = self._path(snapshot.digest)
        try:
            write_snapshot(snapshot, path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise AdapterCapacity(
                f"no space for {snapshot.total_bytes} bytes of an adapter in {self._directory}"
            ) from None
        with self._lock:
            self._sizes[snapshot.digest] = snapshot.total_bytes
            self._sizes.move_to_end(snapshot.digest)
            self._trusted.add(snapshot.digest)
            self._shrink(snapshot.digest)
        return path

    def _shrink(self, keep: str) -> None:
        for digest in list(self._sizes):
            if sum(self._sizes.values()) <= self._max_bytes:
                return
            if digest != keep and digest not in self._pins:
                self._remove(digest)

    def _remove(self, digest: str) -> None:
        self._sizes.pop(digest, None)
        self._trusted.discard(digest)
        shutil.rmtree(self._path(digest), ignore_errors=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix(SHA256_PREFIX)
