"""Which streams of a session are due to be sent, and when the next frame goes out. Pure: the clock
is passed in.

A stream is due at a batch of tokens, at its end, or when its oldest unsent token has waited long
enough. What is due waits one short tick for company, so that one frame carries the deltas of an
engine step and not one frame each. The waiting times of a class are constant, so each class is a
queue in order of its deadlines: no timer and no scan per stream.
"""

from collections import deque

from sampler_api.frames import RUNNING

from .settings import FlushSettings
from .streams import Stream

__all__ = ["FlushQueue"]


class FlushQueue:
    """The unsent news of one session."""

    __slots__ = ("_due", "_due_since", "_readers", "_settings", "_waiting")

    def __init__(self, settings: FlushSettings) -> None:
        self._settings = settings
        self._due: list[Stream] = []
        self._due_since = 0.0
        # (time of the oldest unsent token, stream); stale entries are skipped when they come up.
        self._waiting: deque[tuple[float, Stream]] = deque()
        self._readers: deque[tuple[float, Stream]] = deque()

    def note(self, stream: Stream, now: float) -> bool:
        """A stream has news; True when the next frame may have to go out earlier than was known."""
        if stream.is_due:
            return False
        pending = (len(stream.columns.tokens) >> 2) - stream.sent
        if stream.flag != RUNNING or pending >= self._settings.batch_tokens:
            stream.is_due = True
            self._due.append(stream)
            if len(self._due) == 1:
                self._due_since = now
                return True
            return False
        if stream.pending_since is not None:
            return False
        stream.pending_since = now
        queue = self._readers if stream.is_interactive else self._waiting
        queue.append((now, stream))
        return len(queue) == 1

    def due_at(self) -> float | None:
        """When the next frame should be built; None when there is no news."""
        settings = self._settings
        times: list[float] = []
        if self._due:
            times.append(self._due_since + settings.tick_seconds)
        for queue, wait in (
            (self._readers, settings.interactive_seconds),
            (self._waiting, settings.wait_seconds),
        ):
            self._skip_stale(queue)
            if queue:
                times.append(queue[0][0] + wait)
        return min(times, default=None)

    def take(self, now: float) -> list[Stream]:
        """Everything due at ``now``, and what would be due a moment later; from now on sent."""
        settings = self._settings
        taken, self._due = self._due, []
        until = now + settings.slack_seconds
        for queue, wait in (
            (self._readers, settings.interactive_seconds),
            (self._waiting, settings.wait_seconds),
        ):
            while queue and queue[0][0] + wait <= until:
                since, stream = queue.popleft()
                if stream.pending_since == since and not stream.is_due:
                    stream.is_due = True
                    taken.append(stream)
        for stream in taken:
            stream.is_due = False
            stream.pending_since = None
        return taken

    def put_back(self, streams: list[Stream], now: float) -> None:
        """Streams that did not fit into the frame: first in line for the next one."""
        for stream in streams:
            stream.is_due = True
        self._due[:0] = streams
        self._due_since = now - self._settings.tick_seconds

    @staticmethod
    def _skip_stale(queue: deque[tuple[float, Stream]]) -> None:
        while queue and (queue[0][1].pending_since != queue[0][0] or queue[0][1].is_due):
            queue.popleft()
