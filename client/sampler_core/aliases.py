"""The caller's names for adapters: each bound to a digest, a generation, and bytes that cannot
change any more."""

import os
import threading
from collections.abc import Callable, Mapping
from operator import index
from pathlib import Path
from typing import Any

from sampler_api.errors import InvalidRequest
from sampler_api.names import SHA256_PREFIX
from sampler_api.revisions import AdapterRevision

from .adapters import AdapterSnapshot, peft_config_dict, snapshot_adapter, write_snapshot

__all__ = ["AdapterAliases"]

_Stamp = tuple[tuple[str, int, int, int], ...]


class AdapterAliases:
    """Names of one sampler. Thread-safe.

    With ``snapshot_dir`` (a sampler whose engine is in this process) the bytes are copied there and
    engines read the copy; without it they read the caller's directory and check its digest.
    """

    def __init__(self, snapshot_dir: Callable[[], Path] | None = None) -> None:
        self._lock = threading.Lock()
        self._bound: dict[str, AdapterRevision] = {}
        self._seen: dict[Path, tuple[_Stamp, AdapterRevision]] = {}
        self._sources: dict[str, str] = {}
        self._snapshot_dir = snapshot_dir

    def bind(
        self,
        name: str,
        config_or_dir: Any,
        generation: int | None,
        create: Callable[[Mapping[str, object]], str],
    ) -> AdapterRevision:
        """The revision that ``name`` is about to mean; nothing is switched yet.

        A directory or PEFT model is read now; a PEFT config is given to ``create``, which returns
        the digest of the zero adapter that it made.
        """
        if not isinstance(name, str) or not name or "/" in name or "@" in name:
            raise InvalidRequest("adapter_name: must be a text without '/' and '@'", "adapter_name")
        with self._lock:
            before = self._bound.get(name)
        last = before.generation if before else -1
        if generation is None:
            generation = last + 1
        elif isinstance(generation, bool) or not hasattr(generation, "__index__"):
            raise InvalidRequest(
                f"generation: must be an integer, not {generation!r}", "generation"
            )
        generation = index(generation)
        if generation <= last:
            raise InvalidRequest(f"generation: {generation} must be more than {last}", "generation")
        config = peft_config_dict(config_or_dir)
        if config is not None:
            return AdapterRevision(name, create(config), generation)
        snapshot = snapshot_adapter(config_or_dir)
        path = self._path_of(snapshot, config_or_dir)
        return AdapterRevision(name, snapshot.digest, generation, path)

    def _path_of(self, snapshot: AdapterSnapshot, source: Any) -> str:
        if self._snapshot_dir is not None:
            copy = self._snapshot_dir() / snapshot.digest.removeprefix(SHA256_PREFIX)
            write_snapshot(snapshot, copy)
            with self._lock:
                self._sources[str(copy)] = snapshot.source or "adapter"
            return str(copy)
        if isinstance(source, str | Path):
            return str(Path(source).resolve())
        raise InvalidRequest(
            "config_or_dir: a fleet reads adapters from a directory that its replicas see; save "
            "the adapter below one of their --adapter-root directories and pass that directory",
            "config_or_dir",
        )

    def source_of(self, path: str) -> str:
        """What the caller knows a copy as; any other path is itself."""
        with self._lock:
            return self._sources.get(path, path)

    def commit(self, revision: AdapterRevision) -> None:
        """Switch the name, unless a later generation overtook this one."""
        with self._lock:
            before = self._bound.get(revision.name)
            if before is None or before.generation < revision.generation:
                self._bound[revision.name] = revision

    def bound(self) -> list[AdapterRevision]:
        """Every name's revision."""
        with self._lock:
            return list(self._bound.values())

    def get(self, name: str) -> AdapterRevision:
        """What a name means now. Raises InvalidRequest, never another adapter or the base."""
        with self._lock:
            found = self._bound.get(name)
            known = ", ".join(sorted(self._bound)) or "none"
        if found is None:
            raise InvalidRequest(
                f"adapter_name: {name!r} is not known here (known: {known}); call "
                f"add_adapter_to_model({name!r}, directory) first",
                "adapter_name",
            )
        return found

    def of_path(self, path: str, name: str) -> AdapterRevision:
        """The revision of a directory used for one call; read again whenever its files changed."""
        directory = Path(path).resolve()
        stamp = _stamp(directory)
        with self._lock:
            seen = self._seen.get(directory)
        if seen is not None and stamp and seen[0] == stamp:
            return seen[1]
        snapshot = snapshot_adapter(path)
        where = self._path_of(snapshot, path)
        revision = AdapterRevision(name or directory.name, snapshot.digest, 0, where)
        with self._lock:
            self._seen[directory] = stamp, revision
        return revision


def _stamp(directory: Path) -> _Stamp:
    """What changes when a trainer writes the directory anew; empty when it cannot be read."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(directory)]
    except OSError:
        return ()
    return tuple(sorted((n, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in found))
