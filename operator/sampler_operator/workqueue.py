"""Keys that need a pass: each once, each by one worker at a time, failed ones again later."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from .errors import OperatorError
from .names import Key

__all__ = ["WorkQueue"]

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
LAST_DELAY_SECONDS = 60.0
_TIMER_SECONDS = 0.01
"""A timer may fire so much early."""

Work = Callable[[Key], Awaitable[float | None]]


class WorkQueue:
    """Runs ``work`` for keys that were added; it returns the seconds after which to look again.

    A key that is added while its pass runs gets another one. A pass that raises is repeated after
    0.5 s, then twice as long each time up to 60 s; passes between two repetitions, for news, change
    nothing about that. ``observe`` is told the duration and the error of each pass.
    """

    def __init__(
        self,
        work: Work,
        workers: int = 16,
        observe: Callable[[float, BaseException | None], None] = lambda seconds, error: None,
    ) -> None:
        self._work = work
        self._workers = workers
        self._observe = observe
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._active: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._repeats: dict[Key, tuple[float, float]] = {}
        """Of keys whose last pass failed: the delay, and when it is over."""
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs (timers may)."""
        return not self._queued and not self._active

    def add(self, key: Key) -> None:
        """Ask for a pass as soon as possible; on the loop."""
        self._forget_timer(key)
        if key not in self._queued:
            self._queued.add(key)
            if key not in self._active:
                self._ready.append(key)
                self._wakeup.set()

    def add_later(self, key: Key, seconds: float) -> None:
        """Ask for a pass in some seconds, or earlier if it is asked for otherwise."""
        if key in self._queued:
            return
        due = asyncio.get_running_loop().time() + seconds
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        self._forget_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._serve())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _serve(self) -> None:
        while True:
            while not self._ready:
                self._wakeup.clear()
                await self._wakeup.wait()
            key = self._ready.popleft()
            self._queued.discard(key)
            self._active.add(key)
            try:
                await self._pass(key)
            finally:
                self._active.discard(key)
                if key in self._queued:
                    self._ready.append(key)
                    self._wakeup.set()

    async def _pass(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            again = await self._work(key)
        except OperatorError as error:
            self._failed(key, loop.time() - started, error)
            log.warning("%s: %s", key, error.message)
        except Exception as error:
            self._failed(key, loop.time() - started, error)
            log.exception("%s: the pass failed", key)
        else:
            self._repeats.pop(key, None)
            self._observe(loop.time() - started, None)
            if again is not None:
                self.add_later(key, again)

    def _failed(self, key: Key, seconds: float, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        delay, due = self._repeats.get(key, (0.0, now))
        if now >= due - _TIMER_SECONDS:
            delay = min(2 * delay, LAST_DELAY_SECONDS) or FIRST_DELAY_SECONDS
            due = now + delay
        self._repeats[key] = delay, due
        self._observe(seconds, error)
        self.add_later(key, due - now)

    def _forget_timer(self, key: Key) -> None:
        with contextlib.suppress(KeyError):
            self._timers.pop(key).cancel()
