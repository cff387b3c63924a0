"""List and watch of one kind of child, or of pods: what is there, what changes, and what has ended
while nobody looked.

A list says what is there and, by what it lacks, what has ended; the watch goes on from the list's
version. Whatever goes wrong with a watch, the list is asked for anew. The protocol is that of
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

import asyncio
import logging
import random
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from .. import names
from ..errors import ClusterError, Missing, Unavailable
from ..names import Key
from .api import KubeApi
from .listing import show_all
from .resources import Resource
from .view import KubeView

__all__ = ["Informer"]

log = logging.getLogger(__name__)

_DELAYS: Final = (0.5, 1.0, 2.0, 5.0)
_WATCH_SECONDS: Final = (300, 600)
_ABSENT_SECONDS: Final = 3600.0
SHORTEST_SECONDS: Final = 1.0
"""A watch that ends sooner was not ended because of its time."""


class Informer:
    """Keeps ``view`` complete in one kind; ``namespace`` is empty for all of them."""

    def __init__(
        self,
        api: KubeApi,
        view: KubeView,
        enqueue: Callable[[Key], None],
        kind: str,
        resource: Resource,
        namespace: str,
    ) -> None:
        self._api = api
        self._view = view
        self._enqueue = enqueue
        self.kind = kind
        self._namespace = namespace
        self._path = resource.path(namespace)
        self._may_be_there = asyncio.Event()
        self._failures = 0
        self.listed = asyncio.Event()
        """Everything there is has been shown, if only that the cluster has no such kind."""

    def look(self) -> None:
        """The kind is there, if it was not before."""
        self._may_be_there.set()

    async def run(self) -> None:
        """Until cancelled. Raises ClusterError when the first list is refused for good."""
        while True:
            try:
                self._may_be_there.clear()
                version = await show_all(
                    self._api, self._view, self._enqueue, self.kind, self._path, self._namespace
                )
                self.listed.set()
                await self._follow(version)
            except Missing:
                await self._is_absent()
            except ClusterError as error:
                if not (error.retryable or self.listed.is_set()):
                    raise
                log.warning("watching %s failed: %s", self._path, error.message)
                await self._rest()

    async def _is_absent(self) -> None:
        """With the kind its objects have gone, and no watch may have told it."""
        for key in self._view.sweep(self.kind, self._namespace, set(), sys.maxsize):
            self._enqueue(key)
        self.listed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ABSENT_SECONDS):
                await self._may_be_there.wait()

    async def _rest(self) -> None:
        await asyncio.sleep(_DELAYS[min(self._failures, len(_DELAYS) - 1)])
        self._failures += 1

    async def _follow(self, version: str) -> None:
        """Take in what changes after ``version``. Raises Unavailable when that is not to be had."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async with aclosing(self._events(version)) as events:
                async for kind_of_event, obj in events:
                    self._failures = 0
                    version = obj["metadata"]["resourceVersion"]
                    if kind_of_event != "BOOKMARK":
                        self._see(kind_of_event, obj)
            if loop.time() - began < SHORTEST_SECONDS:
                raise Unavailable("the API server ended the watch at once")

    async def _events(self, version: str) -> AsyncGenerator[tuple[str, Mapping[str, Any]]]:
        query = {
            "labelSelector": names.LABEL_SELECTOR,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            # Not all watches end together.
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),
        }
        async with aclosing(self._api.watch(self._path, query)) as events:
            async for event in events:
                obj = event["object"]
                if event["type"] == "ERROR":
                    raise Unavailable(f"the API server ended the watch: {obj.get('message')}")
                yield event["type"], obj

    def _see(self, kind_of_event: str, obj: Mapping[str, Any]) -> None:
        see = self._view.end if kind_of_event == "DELETED" else self._view.put
        try:
            keys = see({**obj, "kind": self.kind})
        except Exception:
            # Whatever is wrong with one object, the others are served.
            log.exception("%s %s is not understood", self.kind, obj["metadata"].get("name"))
            return
        for key in keys:
            self._enqueue(key)
