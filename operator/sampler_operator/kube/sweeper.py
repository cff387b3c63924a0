"""Lists everything that is ours: before the first pass, and after a watch had to begin anew.

A watch that begins anew shows what exists, and not what has ended meanwhile. kopf then sends the
objects of its list as events, and that is the sign to compare. Once an hour it is done unasked.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress

from .. import names
from ..errors import ClusterError, Missing
from ..names import Key
from ..workqueue import FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS
from .api import KubeApi
from .handlers import LABEL_SELECTOR
from .resources import CHILDREN, PODS, SAMPLER_DEPLOYMENTS, Resource
from .view import KubeView, version_of

__all__ = ["Sweeper"]

log = logging.getLogger(__name__)

_PAGE = "200"
_SETTLE_SECONDS = 0.5
_UNASKED_SECONDS = 3600.0


class Sweeper:
    """Keeps ``view`` complete. ``namespaces``: only these, or all if empty. ``absent``: it notes
    there which kinds the cluster does not have."""

    def __init__(
        self,
        api: KubeApi,
        view: KubeView,
        enqueue: Callable[[Key], None],
        namespaces: tuple[str, ...],
        absent: set[str],
    ) -> None:
        self._api = api
        self._view = view
        self._enqueue = enqueue
        self._namespaces = namespaces
        self._absent = absent
        self._asked = asyncio.Event()
        self.done = asyncio.Event()
        """The first sweep is complete."""

    def ask(self) -> None:
        """A watch has begun anew."""
        self._asked.set()

    async def run(self) -> None:
        """Sweep once the watches have listed, and then whenever it is asked for."""
        while True:
            # The lists of all kinds follow each other; one sweep is enough for them.
            await self._settled()
            await self._sweep()
            self.done.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_UNASKED_SECONDS):
                    await self._asked.wait()

    async def _settled(self) -> None:
        while True:
            self._asked.clear()
            try:
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                return

    async def _sweep(self) -> None:
        kinds = {names.KIND: SAMPLER_DEPLOYMENTS, "Pod": PODS, **CHILDREN}
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                for kind, resource in kinds.items():
                    await self._sweep_kind(kind, resource)
                return
            except ClusterError as error:
                if not error.retryable:
                    raise
                log.warning("listing what is there failed: %s", error.message)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY_SECONDS)

    async def _sweep_kind(self, kind: str, resource: Resource) -> None:
        for namespace in self._namespaces or ("",):
            scope = f"/namespaces/{namespace}" if namespace else ""
            try:
                present, at = await self._list(kind, f"{resource.api}{scope}/{resource.plural}")
            except Missing:
                # With the kind its objects have gone, and no watch may have told it.
                present, at = set(), sys.maxsize
                self._absent.add(kind)
            for key in self._view.sweep(kind, namespace, present, at):
                self._enqueue(key)

    async def _list(self, kind: str, path: str) -> tuple[set[str], int]:
        """Show everything there is to the view: the uids, and the version of the list."""
        query = {"limit": _PAGE}
        if kind != names.KIND:
            query["labelSelector"] = LABEL_SELECTOR
        present: set[str] = set()
        while True:
            page = await self._api.call("GET", path, query=query)
            for item in page["items"]:
                present.add(item["metadata"]["uid"])
                for key in self._view.put({**item, "kind": kind}):
                    self._enqueue(key)
            more = page["metadata"].get("continue")
            if not more:
                return present, version_of(page)
            query["continue"] = more
