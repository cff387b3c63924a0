"""Leaving without losing a token: sessions are handed over, plain HTTP requests may finish."""

import asyncio
import logging
from collections.abc import Callable

from sampler_api.errors import Draining
from sampler_api.frames import HANDED_OVER

from .hub import Hub
from .settings import ServeSettings
from .websocket import Sessions

__all__ = ["Drain", "flush", "hand_over"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.02


async def hand_over(hub: Hub, sessions: Sessions, seconds: float) -> None:
    """Let go of every sequence that has a client, and wait until the clients have been told."""
    begun = hub.clock()
    sessions.drain()
    # What lost its session too: its client finds another replica when it comes back.
    hub.cancel([s for s in hub.table.running.values() if s.client], HANDED_OVER)
    await flush(hub, sessions, seconds)
    log.info("handed over after %.2f s", hub.clock() - begun)


async def flush(hub: Hub, sessions: Sessions, seconds: float) -> None:
    """Until the clients have been told what has ended, or so many seconds have passed."""
    await _until(hub, lambda: sessions.is_flushed, hub.clock() + seconds)


class Drain:
    """One drain of one process. ``begin`` may be called any number of times."""

    def __init__(self, hub: Hub, sessions: Sessions, settings: ServeSettings) -> None:
        self._hub = hub
        self._sessions = sessions
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self.finished = asyncio.Event()
        """Set when nothing is left to do but to exit."""

    def begin(self, reason: str) -> None:
        """Let go of the work of sessions, and finish that of plain HTTP; on the loop."""
        if self._task is None:
            log.info("draining: %s", reason)
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        hub, settings = self._hub, self._settings
        begun = hub.clock()
        hub.is_draining = True
        await hand_over(hub, self._sessions, settings.hand_over_seconds)
        # Whoever has not heard of the drain yet is served: such a request asks nobody else.
        await _until(hub, lambda: False, begun + settings.listen_seconds)
        hub.is_refusing = True
        await _until(hub, lambda: hub.local_running == 0, begun + settings.drain_seconds)
        for stream in list(hub.table.running.values()):
            hub.end_with(stream, Draining("the replica has left before the request was complete"))
        await self._sessions.close()
        self.finished.set()


async def _until(hub: Hub, holds: Callable[[], bool], deadline: float) -> None:
    while True:
        left = deadline - hub.clock()
        if holds() or left <= 0:
            return
        await asyncio.sleep(min(left, _LOOK_SECONDS))
