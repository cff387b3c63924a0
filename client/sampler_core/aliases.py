"""The caller's names for adapters: each bound to a digest, a generation, and bytes that cannot
change any more."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import InvalidRequest
from sampler_api.revisions import AdapterRevision

from .adapters import AdapterSnapshot, peft_config_dict, snapshot_adapter
from .kept_snapshots import KeptSnapshot, KeptSnapshots

__all__ = ["AdapterAliases", "BoundAdapter"]

_Stamp = tuple[tuple[str, int, int, int], ...]

_SEEN: Final = 16
"""Directories without a name whose last revision is remembered."""


@dataclass(frozen=True, slots=True)
class BoundAdapter:
    """A revision, and the copy of its bytes where the caller's directory is not what is read."""

    revision: AdapterRevision
    kept: KeptSnapshot | None = None


class AdapterAliases:
    """Names of one sampler. Thread-safe.

    With ``snapshot_dir`` (a sampler whose engine is in this process) the bytes are copied there and
    engines read the copy; without it they read the caller's directory and check its digest. A copy
    lasts until its name means something else and nobody holds its ``BoundAdapter``.
    """

    def __init__(self, snapshot_dir: Callable[[], Path] | None = None) -> None:
        self._lock = threading.Lock()
        self._bound: dict[str, BoundAdapter] = {}
        self._seen: OrderedDict[Path, tuple[_Stamp, BoundAdapter]] = OrderedDict()
        self._snapshots = None if snapshot_dir is None else KeptSnapshots(snapshot_dir)

    def bind(
        self,
        name: str,
        config_or_dir: Any,
        generation: int | None,
        create: Callable[[Mapping[str, object]], str],
    ) -> BoundAdapter:
        """The revision that ``name`` is about to mean; nothing is switched yet.

        A directory or PEFT model is read now; a PEFT config is given to ``create``, which returns
        the digest of the zero adapter that it made.
        """
        if not isinstance(name, str) or not name or "/" in name or "@" in name:
            raise InvalidRequest("adapter_name: must be a text without '/' and '@'", "adapter_name")
        with self._lock:
            before = self._bound.get(name)
        last = before.revision.generation if before else -1
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
            return BoundAdapter(AdapterRevision(name, create(config), generation))
        return self._revision(snapshot_adapter(config_or_dir), config_or_dir, name, generation)

    def _revision(
        self, snapshot: AdapterSnapshot, source: Any, name: str, generation: int
    ) -> BoundAdapter:
        if self._snapshots is not None:
            kept = self._snapshots.keep(snapshot)
            return BoundAdapter(AdapterRevision(name, snapshot.digest, generation, kept.path), kept)
        if isinstance(source, str | Path):
            path = str(Path(source).resolve())
            return BoundAdapter(AdapterRevision(name, snapshot.digest, generation, path))
        raise InvalidRequest(
            "config_or_dir: a fleet reads adapters from a directory that its replicas see; save "
            "the adapter below one of their --adapter-root directories and pass that directory",
            "config_or_dir",
        )

    def source_of(self, path: str) -> str:
        """What the caller knows a copy as; any other path is itself."""
        return path if self._snapshots is None else self._snapshots.source_of(path)

    def commit(self, bound: BoundAdapter) -> None:
        """Switch the name, unless a later generation overtook this one."""
        revision = bound.revision
        with self._lock:
            before = self._bound.get(revision.name)
            if before is None or before.revision.generation < revision.generation:
                self._bound[revision.name] = bound

    def bound(self) -> list[AdapterRevision]:
        """Every name's revision."""
        with self._lock:
            return [bound.revision for bound in self._bound.values()]

    def get(self, name: str) -> BoundAdapter:
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

    def of_path(self, path: str, name: str) -> BoundAdapter:
        """The revision of a directory used for one call; read again whenever its files changed."""
        directory = Path(path).resolve()
        stamp = _stamp(directory)
        with self._lock:
            seen = self._seen.get(directory)
            if seen is not None:
                self._seen.move_to_end(directory)
        if seen is not None and stamp and seen[0] == stamp:
            return seen[1]
        bound = self._revision(snapshot_adapter(path), path, name or directory.name, 0)
        with self._lock:
            self._seen[directory] = stamp, bound
            self._seen.move_to_end(directory)
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        return bound


def _stamp(directory: Path) -> _Stamp:
    """What changes when a trainer writes the directory anew; empty when it cannot be read."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(directory)]
    except OSError:
        return ()
    return tuple(sorted((n, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in found))
