"""The server's adapters: read from volumes under their digest, stored, loaded, and let go again.

An adapter reaches the engine on one way only: read below the allowed roots, compared with the
digest that the request names, checked against base and engine, copied into the store, loaded from
there.
"""

import asyncio
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from sampler_api.errors import AdapterError, AdapterInvalid, AdapterMissing, AdapterUnsupported
from sampler_api.frames import RevisionRef
from sampler_core.adapter_check import check_adapter, supported_kinds
from sampler_core.adapter_files import resolve_below
from sampler_core.adapters import (
    CONFIG_FILE,
    TENSORS_FILE,
    AdapterSnapshot,
    snapshot_adapter,
    zero_adapter,
)

from .adapter_slots import AdapterSlots
from .engines.base import Engine
from .stored_adapters import StoredAdapters

__all__ = ["MAX_STORE_BYTES", "AdapterStore"]

log = logging.getLogger(__name__)

MAX_STORE_BYTES: Final = 16 << 30

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_RECIPES: Final = 256

Operation = Callable[[str], AbstractContextManager[object]]


class _Load:
    """A load under way, and how many wait for it."""

    __slots__ = ("is_loaded", "path", "task", "waiters")

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.waiters = 0
        self.is_loaded = False
        self.task: asyncio.Task[None]


class AdapterStore:
    """Implements ``hub.Adapters``; all methods on one event loop, what blocks in threads.

    ``roots``: directories below which adapters may be read. ``shapes``: ``(out, in)`` of the base's
    linear modules, ``None`` where they are not known (an engine without weights). ``operation``
    wraps every load and unload, so that the watchdog lets the engine stand still. ``shown`` gives
    the name of a path in messages.
    """

    def __init__(
        self,
        store_dir: Path,
        roots: Sequence[Path],
        engine: Engine,
        shapes: Mapping[str, tuple[int, int]] | None,
        max_adapters: int,
        max_rank: int,
        *,
        operation: Operation = lambda name: nullcontext(),
        max_store_bytes: int = MAX_STORE_BYTES,
        shown: Callable[[str], str] = str,
    ) -> None:
        self._shown = shown
        self._roots = list(roots)
        self._engine = engine
        self._shapes = dict(shapes or {})
        self._max_rank = max_rank
        self._operation = operation
        self._slots = AdapterSlots(max_adapters)
        self._stored = StoredAdapters(store_dir, max_store_bytes, self._check)
        self._loads: dict[str, _Load] = {}
        self._names: dict[str, str] = {}
        self._recipes: OrderedDict[str, Mapping[str, object]] = OrderedDict()
        self._engine_lock = asyncio.Lock()

    def held(self) -> Mapping[str, str]:
        """Digests that the engine holds, with the name each was last asked for by."""
        return {digest: self._names.get(digest, "") for digest in self._slots.held()}

    async def acquire(self, ref: RevisionRef) -> None:
        """Make ``ref.adapter`` servable and hold it until ``release``; nothing for the base.

        Requests for one digest share one load. Raises AdapterMissing (not held, and not at the
        path), AdapterInvalid, AdapterUnsupported, AdapterCapacity (every slot in use).
        """
        digest = ref.adapter
        if digest is None:
            return
        if not _DIGEST.fullmatch(digest):
            raise AdapterInvalid(f"revision: {digest!r} is no sha256 digest", "revision")
        while not self._slots.hold(digest):
            load = self._loads.get(digest)
            if load is None:
                load = self._begin(ref, digest)
            load.waiters += 1
            try:
                await asyncio.shield(load.task)
                break  # the load has counted this use
            except asyncio.CancelledError:
                self._leave(load, digest)
                raise
            except AdapterError:
                if load.path == ref.path:
                    raise
                # Somebody else's path was no good; this request's may be.
        if ref.name:
            self._names[digest] = ref.name

    async def acquire_directory(self, path: str, name: str) -> str:
        """As ``acquire`` for the adapter that is in a directory now; its digest.

        Raises AdapterMissing (nothing is there), AdapterInvalid, AdapterUnsupported,
        AdapterCapacity.
        """
        digest = await asyncio.to_thread(self._take_in, path)
        await self.acquire(RevisionRef("", digest, name, path))
        return digest

    def release(self, digest: str) -> None:
        """Undo one ``acquire``."""
        self._slots.release(digest)

    async def create(self, config: Mapping[str, object]) -> str:
        """Make and store the zero adapter of a PEFT config; its digest.

        Raises AdapterInvalid, AdapterUnsupported, AdapterCapacity.
        """
        snapshot = await asyncio.to_thread(self._make, config)
        self._recipes[snapshot.digest] = config
        self._recipes.move_to_end(snapshot.digest)
        if len(self._recipes) > _MAX_RECIPES:
            self._recipes.popitem(last=False)
        return snapshot.digest

    async def close(self) -> None:
        """Wait for the loads under way; their requests have been told already."""
        tasks = [load.task for load in self._loads.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, ref: RevisionRef, digest: str) -> _Load:
        load = self._loads[digest] = _Load(ref.path)
        load.task = asyncio.create_task(self._load(ref, digest, load))

        def ended(task: asyncio.Task[None]) -> None:
            # Looked at even when every request has gone meanwhile.
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.info("adapter %s was not loaded: %s", digest, error)

        load.task.add_done_callback(ended)
        return load

    def _leave(self, load: _Load, digest: str) -> None:
        if load.is_loaded:
            self._slots.release(digest)
        else:
            load.waiters -= 1

    async def _load(self, ref: RevisionRef, digest: str, load: _Load) -> None:
        self._stored.pin(digest)
        try:
            # Before a slot is taken: a bad adapter pushes out no good one.
            directory = await asyncio.to_thread(self._obtain, ref, digest)
            async with self._engine_lock:
                await self._make_room()
                with self._operation(f"load adapter {digest}"):
                    await asyncio.to_thread(self._engine.load_adapter, digest, directory)
                self._slots.add(digest, load.waiters)
                load.is_loaded = True
        except BaseException:
            self._stored.unpin(digest)
            raise
        finally:
            # Here, not in a callback: who asks next must not meet a load that has ended.
            del self._loads[digest]

    async def _make_room(self) -> None:
        victim = self._slots.make_room()
        if victim is None:
            return
        try:
            with self._operation(f"unload adapter {victim}"):
                await asyncio.to_thread(self._engine.unload_adapter, victim)
        except BaseException:
            self._slots.add(victim)
            raise
        self._names.pop(victim, None)
        self._stored.unpin(victim)

    # -- in threads --------------------------------------------------------------------------------

    def _obtain(self, ref: RevisionRef, digest: str) -> Path:
        found = self._stored.find(digest)
        if found is not None:
            return found
        recipe = self._recipes.get(digest)
        if recipe is not None:
            self._make(recipe)
            found = self._stored.find(digest)
        return found or self._stored.put(self._read(ref, digest))

    def _make(self, config: Mapping[str, object]) -> AdapterSnapshot:
        if not self._shapes:
            raise AdapterUnsupported(
                "config: this replica does not know its base's modules; pass a directory instead",
                "config",
            )
        snapshot = zero_adapter(config, self._shapes)
        self._check(snapshot)
        self._stored.put(snapshot)
        return snapshot

    def _read(self, ref: RevisionRef, digest: str) -> AdapterSnapshot:
        path = ref.path
        if not path:
            raise AdapterMissing(
                f"adapter {digest}: not held here, and the request names no directory", "adapter"
            )
        directory = self._allowed(path)
        try:
            snapshot = snapshot_adapter(directory, roots=self._roots)
        except (AdapterInvalid, AdapterUnsupported) as error:
            # The digest is that of a good adapter: something else is there by now.
            raise _overwritten(self._shown(path), digest, error.message) from None
        if snapshot.digest != digest:
            raise _overwritten(self._shown(path), digest, f"found {snapshot.digest}")
        self._check_from(path, snapshot)
        return snapshot

    def _take_in(self, path: str) -> str:
        snapshot = snapshot_adapter(self._allowed(path), roots=self._roots)
        self._check_from(path, snapshot)
        self._stored.put(snapshot)
        return snapshot.digest

    def _allowed(self, path: str) -> Path:
        """The directory and its files, resolved and below a root."""
        if not self._roots:
            raise AdapterMissing(
                f"{path}: this replica reads no directories; serve with an --adapter-root above it:"
                " on a cluster, a volume of the fleet's spec.lora.volumes",
                "adapter_path",
            )
        directory = resolve_below(Path(path), self._roots)
        for name in (CONFIG_FILE, TENSORS_FILE):
            if os.path.lexists(directory / name):
                resolve_below(directory / name, self._roots)
        return directory

    def _check_from(self, path: str, snapshot: AdapterSnapshot) -> None:
        try:
            self._check(snapshot)
        except AdapterError as error:
            raise type(error)(f"{self._shown(path)}: {error.message}", error.field) from None

    def _check(self, snapshot: AdapterSnapshot) -> None:
        check_adapter(
            snapshot.config,
            snapshot.tensors,
            self._shapes,
            max_rank=self._max_rank,
            supports=supported_kinds(self._engine.info.engine),
        )


def _overwritten(path: str, digest: str, what: str) -> AdapterMissing:
    return AdapterMissing(
        f"{path}: expected adapter {digest}, {what}; the directory was overwritten? Write each "
        "revision into a directory of its own",
        "adapter_path",
    )
