"""Whether the base of a hub is about to change, for everybody who begins sequences on it."""

import asyncio

from sampler_api.errors import Draining, RevisionGone

__all__ = ["BaseChange"]


class BaseChange:
    """Two phases: ``is_pending``, while what runs may still end under the old weights, and
    ``is_due``, when nothing runs and nothing may begin. All on the hub's loop."""

    def __init__(self) -> None:
        self.is_pending = False
        self.is_due = False
        self.requests = 0
        """Plain HTTP requests that are being served: their inputs may begin one after the other."""
        self._settled = asyncio.Event()
        self._settled.set()

    def begin(self) -> None:
        """Nothing that names the old base begins any more, but for requests that are under way."""
        self.is_pending = True
        self._settled.clear()

    def close(self) -> None:
        """Not even these."""
        self.is_due = True

    def end(self) -> None:
        """There is a base again, the old one or another."""
        self.is_pending = self.is_due = False
        self._settled.set()

    @property
    def operations(self) -> tuple[str, ...]:
        """What is under way, for people."""
        return ("replace weights",) if self.is_pending else ()

    async def settled(self) -> None:
        """Until no change is under way."""
        await self._settled.wait()

    def session_problem(self) -> Draining | None:
        """Why what is new goes to other replicas meanwhile: sessions, and their requests."""
        if not self.is_pending:
            return None
        return Draining("the replica is about to get new base weights; continue elsewhere")

    def check_request(self) -> None:
        """Raises RevisionGone: a plain HTTP request has begun under weights that go now."""
        if self.is_due:
            raise RevisionGone("the base weights are being replaced; ask again")
