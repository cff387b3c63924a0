"""The way from the engine's thread onto the event loop: one wake-up a step, whatever it brings."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from .engines.base import Delta

__all__ = ["Inbox"]

log = logging.getLogger(__name__)


class Inbox:
    """Deltas on their way to ``take``, which runs on the loop. What comes before ``open`` waits."""

    def __init__(self, take: Callable[[Delta], None]) -> None:
        self._take = take
        self._steps: deque[Sequence[Delta]] = deque()
        self._is_woken = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Begin to hand deltas on; on the running loop."""
        self._loop = asyncio.get_running_loop()
        if self._steps:
            self._empty()

    def put(self, deltas: Sequence[Delta]) -> None:
        """The deltas of one step; from any thread."""
        self._steps.append(deltas)
        if not self._is_woken and self._loop is not None:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                log.debug("deltas after the loop was closed")

    def _empty(self) -> None:
        # Cleared first: what the engine appends from here on wakes the loop again.
        self._is_woken = False
        steps, take = self._steps, self._take
        while steps:
            for delta in steps.popleft():
                take(delta)
