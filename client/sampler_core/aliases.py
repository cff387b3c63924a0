"""The caller's names for adapters: each bound to a digest, a generation, and bytes that cannot
change any more."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sampler_api.errors import InvalidRequest
from sampler_api.revisions import AdapterRevision

from .adapters import AdapterSnapshot, peft_config_dict, snapshot_adapter

__all__ = ["AdapterAliases"]


class AdapterAliases:
    """Names of one sampler. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bound: dict[str, AdapterRevision] = {}
        self._snapshots: dict[str, AdapterSnapshot] = {}

    def bind(
        self,
        name: str,
        config_or_dir: Any,
        generation: int | None,
        create: Callable[[Mapping[str, object]], str],
    ) -> AdapterRevision:
        """The revision that ``name`` is about to mean; nothing is switched yet.

        A directory, PEFT model or path is read now; a PEFT config is given to ``create``, which
        returns the digest of the zero adapter that it made.
        """
        if not name or not isinstance(name, str) or "/" in name or "@" in name:
            raise InvalidRequest("adapter_name: must be a text without '/' and '@'", "adapter_name")
        with self._lock:
            before = self._bound.get(name)
        last = before.generation if before else -1
        if generation is None:
            generation = last + 1
        elif generation <= last:
            raise InvalidRequest(f"generation: {generation} must be more than {last}", "generation")
        config = peft_config_dict(config_or_dir)
        if config is not None:
            return AdapterRevision(name, create(config), generation)
        snapshot = snapshot_adapter(config_or_dir)
        with self._lock:
            self._snapshots[snapshot.digest] = snapshot
        path = str(Path(config_or_dir).resolve()) if isinstance(config_or_dir, str | Path) else None
        return AdapterRevision(name, snapshot.digest, generation, path)

    def commit(self, revision: AdapterRevision) -> None:
        """Switch the name; a switch to an older generation that was overtaken is dropped."""
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
        """The revision of a directory used for one call; read at each call, since trainers
        overwrite it."""
        snapshot = snapshot_adapter(path)
        with self._lock:
            self._snapshots[snapshot.digest] = snapshot
        resolved = Path(path).resolve()
        return AdapterRevision(name or resolved.name, snapshot.digest, 0, str(resolved))
