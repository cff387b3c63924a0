"""The first moments of a client: the replicas of its fleet answer one after the other. Pure.

Whoever answers first could take everything that waits, as far as its credit goes, and the others
would find nothing to do. So each replica takes its fair share first, until all endpoints have
answered or failed, or two ticks have passed.
"""

from typing import Final

__all__ = ["UNBOUNDED", "Meeting"]

UNBOUNDED: Final = 1 << 62

_TICKS: Final = 2


class Meeting:
    """Endpoints that are called for the first time; once it is over, it stays so."""

    __slots__ = ("_awaited", "is_over")

    def __init__(self) -> None:
        self._awaited: set[str] = set()
        self.is_over = False

    def expect(self, url: str) -> None:
        """An endpoint is called."""
        if not self.is_over:
            self._awaited.add(url)

    def met(self, url: str) -> None:
        """It has answered, or will not."""
        self._awaited.discard(url)

    def share(self, sequences: int, met: int, ticks: int) -> int:
        """How many of ``sequences``, which wait or run, each of the ``met`` replicas may have."""
        self.is_over = not self._awaited or ticks >= _TICKS
        return -(-sequences // (met + len(self._awaited)))
