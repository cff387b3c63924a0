"""Follows the adapters and the base that a fleet declares for its replicas."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from sampler_api.errors import InvalidRequest, SamplerError, Unsupported
from sampler_api.fleet import DeclaredAdapter
from sampler_api.frames import RevisionRef

from .adapters_file import AdaptersFile
from .batches import Adapters
from .declared_adapters import DeclaredAdapters, parse_adapters
from .identity import base_problem

__all__ = ["Declaration"]

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0


class Declaration:
    """The thin part around :class:`DeclaredAdapters`: reads its file, loads what it names.

    ``directory`` holds ``adapters.json``; without one nothing is declared. Everything on one loop.
    """

    def __init__(
        self,
        directory: Path | None,
        template_hash: str,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self.declared = DeclaredAdapters()
        self.error = ""
        """Why the file as it is now could not be taken in; the last good one is followed."""
        self._file = None if directory is None else AdaptersFile(directory)
        self._template_hash = template_hash
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._news = asyncio.Event()
        self._store: Adapters | None = None
        self._base = ""
        self._has_config = directory is None

    # -- what is told of it ------------------------------------------------------------------------

    def reason(self) -> str:
        """Why the replica must not be ready; empty when nothing speaks against it."""
        if not self._has_config:
            return self.error
        return self.base_problem() or self.declared.missing

    def refusal(self, base: str) -> str:
        """Why the base that is served here must not be replaced by ``base``."""
        problem = base_problem(base, self.declared.bases(), self._template_hash)
        return problem and f"{problem}; the fleet decides on its base"

    def base_problem(self) -> str:
        """Why the base that is served here must not be served; empty when it may."""
        return base_problem(self._base, self.declared.bases(), self._template_hash)

    def names(self) -> Mapping[str, str]:
        """Digests of declared adapters by name."""
        return self.declared.names()

    # -- what it does ------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the file if it has changed, and follow it."""
        if self._file is None:
            return
        try:
            content = self._file.changed()
            if content is None:
                return
            config = parse_adapters(content)
        except (OSError, InvalidRequest) as error:
            text = str(error)
            if text != self.error:
                log.error("%s", text)
            self.error = text
            return
        self.error, self._has_config = "", True
        for digest in self.declared.take(config):
            if self._store is not None:
                self._store.release(digest)
        log.info("%d adapters are declared", len(config.declared))
        self._news.set()

    def begin(self, store: Adapters | None, base: str) -> None:
        """The engine runs and serves ``base``; adapters go into ``store``."""
        self._store, self._base = store, base

    def rebase(self, base: str) -> None:
        """Another base is served from now on."""
        self._base = base

    async def run(self, on_other_base: Callable[[], Awaitable[None]]) -> None:
        """Follow the file until cancelled; ``on_other_base`` is called when the base turns out to
        be one that must not be served."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(on_other_base))
            tasks.create_task(self._load())

    async def _watch(self, on_other_base: Callable[[], Awaitable[None]]) -> None:
        was_wrong = False
        while True:
            self.look()
            problem = self.base_problem()
            if problem and not was_wrong:
                log.error("%s", problem)
                await on_other_base()
            was_wrong = bool(problem)
            await asyncio.sleep(self._poll_seconds)

    async def _load(self) -> None:
        while True:
            self._news.clear()
            now = self._clock()
            adapter = self.declared.next_due(now)
            if adapter is not None:
                await self._try(adapter)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.declared.wait_seconds(now)):
                    await self._news.wait()

    async def _try(self, adapter: DeclaredAdapter) -> None:
        try:
            digest = await self._acquire(adapter)
        except SamplerError as error:
            message = error.message
        except Exception:
            log.exception("declared adapter %s could not be loaded", adapter.name)
            message = "could not be loaded; the replica's log says why"
        else:
            log.info("declared adapter %s is held as %s", adapter.name, digest)
            if not self.declared.loaded(adapter, digest) and self._store is not None:
                self._store.release(digest)
            return
        log.warning("declared adapter %s: %s", adapter.name, message)
        self.declared.failed(adapter, message, self._clock())

    async def _acquire(self, adapter: DeclaredAdapter) -> str:
        if self._store is None:
            raise Unsupported("this replica serves no adapters (--max-adapters 0)", "adapters")
        digest = self.declared.wanted_digest(adapter)
        if digest is None:
            return await self._store.acquire_directory(adapter.path, adapter.name)
        await self._store.acquire(RevisionRef(self._base, digest, adapter.name, adapter.path))
        return digest
