"""Finds a wedged engine: its step counter stands still while requests run."""

import asyncio
import logging
from collections.abc import Callable

from .hub import Hub

__all__ = ["StepWatch", "watch"]

log = logging.getLogger(__name__)

_FLOOR_SECONDS = 10.0
_SLOWEST_STEPS = 5.0
_POLL_SECONDS = 1.0


class StepWatch:
    """The rule, without a clock: a stall is longer than 10 s, than ``stall_seconds``, and than five
    times the slowest step so far.

    Between two looks at most ``max_gap`` seconds count: when this process itself stood still
    (SIGSTOP, a held GIL), that says nothing about the engine.
    """

    __slots__ = ("_limit", "_max_gap", "_now", "_steps", "slowest", "stalled")

    def __init__(
        self,
        stall_seconds: float,
        max_gap: float = 2 * _POLL_SECONDS,
        floor_seconds: float = _FLOOR_SECONDS,
    ) -> None:
        self._limit = max(floor_seconds, stall_seconds)
        self._max_gap = max_gap
        self._now: float | None = None
        self._steps = -1
        self.slowest = 0.0
        """Longest step seen, in seconds."""
        self.stalled = 0.0
        """Seconds since the last step during which requests ran."""

    @property
    def limit(self) -> float:
        """Seconds after which a standing counter is a stall."""
        return max(self._limit, _SLOWEST_STEPS * self.slowest)

    def look(self, now: float, steps: int, is_busy: bool, is_suspended: bool = False) -> bool:
        """Take a reading; True for a stall. ``is_suspended``: a declared operation holds it up."""
        gap = 0.0 if self._now is None else min(now - self._now, self._max_gap)
        self._now = now
        if steps != self._steps:
            # With several steps since the last look, none of them was as long as the time since.
            if self._steps >= 0 and steps == self._steps + 1 and self.stalled:
                self.slowest = max(self.slowest, self.stalled + gap)
            self._steps = steps
            self.stalled = 0.0
        elif not is_busy or is_suspended:
            self.stalled = 0.0
        else:
            self.stalled += gap
        return self.stalled > self.limit


async def watch(
    hub: Hub,
    on_stall: Callable[[str], None],
    stall_seconds: float,
    poll_seconds: float = _POLL_SECONDS,
    floor_seconds: float = _FLOOR_SECONDS,
) -> None:
    """Look once a second; calls ``on_stall`` with one line for people, once, and returns."""
    rule = StepWatch(stall_seconds, 2 * poll_seconds, floor_seconds)
    while True:
        await asyncio.sleep(poll_seconds)
        now = hub.clock()
        progress = hub.engine.progress()
        # The engine's own counters may be as old as its last step: a first step can hang too.
        is_busy = progress.running > 0 or progress.waiting > 0 or hub.is_engine_asked
        is_suspended = any(until > now for until in hub.operations.values())
        if rule.look(now, progress.steps, is_busy, is_suspended):
            on_stall(
                f"engine stalled: no step for {rule.stalled:.0f} s (limit {rule.limit:.0f} s) "
                f"after step {progress.steps} with {progress.running} sequences running"
            )
            return
