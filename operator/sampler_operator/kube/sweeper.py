"""Lists the SamplerDeployments: before the first pass, and after kopf's watch had to begin anew.

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
from .listing import show_all
from .resources import SAMPLER_DEPLOYMENTS
from .view import KubeView

__all__ = ["Sweeper"]

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.5
_UNASKED_SECONDS = 3600.0


class Sweeper:
    """Keeps ``view`` complete. ``namespaces``: only these, or all if empty."""

    def __init__(
        self,
        api: KubeApi,
        view: KubeView,
        enqueue: Callable[[Key], None],
        namespaces: tuple[str, ...],
    ) -> None:
        self._api = api
        self._view = view
        self._enqueue = enqueue
        self._namespaces = namespaces
        self._asked = asyncio.Event()
        self.done = asyncio.Event()
        """The first sweep is complete."""

    def ask(self) -> None:
        """A watch has begun anew."""
        self._asked.set()

    async def run(self) -> None:
        """Sweep once the watches have listed, and then whenever it is asked for."""
        while True:
            # The lists of all namespaces follow each other; one sweep is enough for them.
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
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                for namespace in self._namespaces or ("",):
                    path = SAMPLER_DEPLOYMENTS.path(namespace)
                    await show_all(
                        self._api, self._view, self._enqueue, names.KIND, path, namespace
                    )
                return
            except Missing:
                # With the kind its objects have gone, and no watch may have told it.
                for key in self._view.sweep(names.KIND, "", set(), sys.maxsize):
                    self._enqueue(key)
                return
            except ClusterError as error:
                if not error.retryable:
                    raise
                log.warning("listing what is there failed: %s", error.message)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY_SECONDS)
