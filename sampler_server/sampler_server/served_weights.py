"""A server's sessions and plain HTTP requests while its base changes.

For its clients a replica with another base is a replica that left and one that came: sessions are
told to send nothing new, then end, and the next welcome names the new base. What was handed over is
the client's to place: on a replica that still has the old base, else, where the welcome says that
this base succeeds it, here.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from sampler_api.errors import Draining

from .base_change import BaseChange
from .drain import flush, hand_over
from .hub import Hub
from .websocket import Sessions

__all__ = ["ChangeGate", "ServedReaders"]

_MOST_SUCCEEDED = 16


class ServedReaders:
    """Implements ``weights.InFlightReaders`` for a server."""

    def __init__(self, hub: Hub, sessions: Sessions, flush_seconds: float) -> None:
        self._hub = hub
        self._sessions = sessions
        self._flush_seconds = flush_seconds

    def hold(self) -> None:
        """See ``InFlightReaders``."""
        for session in self._sessions:
            session.turn_away()

    @property
    def is_waiting(self) -> bool:
        """See ``InFlightReaders``."""
        return self._hub.change.requests > 0

    async def hand_over(self) -> None:
        """See ``InFlightReaders``. Plain HTTP cannot resume: its sequences are not handed over."""
        await hand_over(self._hub, self._sessions, self._flush_seconds)

    async def flush(self) -> None:
        """See ``InFlightReaders``."""
        await flush(self._hub, self._sessions, self._flush_seconds)

    async def release(self, previous: str, are_continued: bool) -> None:
        """See ``InFlightReaders``."""
        base = self._hub.card.base
        sessions = self._sessions
        if base != previous:
            # One that must not go on breaks the chain: what waits for it must not get here later.
            chain = (*sessions.succeeds, previous) if are_continued else ()
            sessions.succeeds = tuple(each for each in chain if each != base)[-_MOST_SUCCEEDED:]
        await sessions.close(Draining(f"this replica serves base {base} now; connect again"))


class ChangeGate:
    """Plain HTTP requests that come while the base changes wait for it, and name what comes."""

    def __init__(self, app: ASGIApp, change: BaseChange) -> None:
        self.app = app
        self.change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        await self.change.settled()
        self.change.requests += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.change.requests -= 1
