"""What a lost session may have left running at a replica, until that is told to end it. Pure."""

from collections.abc import Iterable

from sampler_api.frames import CancelId
from sampler_core.groups import ChildWork

__all__ = ["Leftovers", "attempt_of"]


def attempt_of(child: ChildWork) -> CancelId:
    """The present attempt of a sequence, as a replica knows it."""
    return CancelId(child.group.seq, child.k, child.attempt)


class Leftovers:
    """Attempts by endpoint, of the process that was there last: another one runs none of them."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[str, list[CancelId]]] = {}

    def add(self, url: str, incarnation: str, attempts: Iterable[CancelId]) -> None:
        """Attempts that nobody waits for any more."""
        before, known = self._left.get(url, ("", []))
        self._left[url] = incarnation, [*(known if before == incarnation else ()), *attempts]

    def take(self, url: str, incarnation: str) -> list[CancelId]:
        """What is to be ended there, now that it is reached again."""
        before, attempts = self._left.pop(url, ("", []))
        return attempts if before == incarnation else []

    def forget(self, url: str) -> None:
        """The endpoint has left the fleet."""
        self._left.pop(url, None)
