"""Sequences that engines fail on: each is tried once more alone, where it harms nobody. Pure.

A replica is emptied for a suspect — it gets no new work until what runs there has ended — and is
free again when the suspect has. Only what fails there too is poison.
"""

from collections.abc import Callable, Iterable

from sampler_api.frames import RUNNING
from sampler_core.groups import ChildWork

from .replica import Replica

__all__ = ["Quarantine", "is_suspect"]

_SUSPECT_FAILURES = 2
_SUSPECT_DEATHS = 3
_MOST_RESERVED = 1 / 8
"""Of the replicas: many suspects wait for each other, and not the fleet for them."""


def is_suspect(child: ChildWork) -> bool:
    """Engines of two replicas failed on it, or three replicas in a row died with it."""
    return child.failures >= _SUSPECT_FAILURES or child.deaths >= _SUSPECT_DEATHS


class Quarantine:
    """The suspects that wait for a replica of their own."""

    def __init__(self) -> None:
        self._waiting: list[ChildWork] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, child: ChildWork) -> None:
        """A suspect that is to be tried once more."""
        self._waiting.append(child)

    def take(self, concerns: Callable[[ChildWork], bool]) -> list[ChildWork]:
        """Remove and return some of the suspects."""
        taken = [child for child in self._waiting if concerns(child)]
        self._waiting = [child for child in self._waiting if not concerns(child)]
        return taken

    def bases(self) -> set[str]:
        """The base digests that suspects wait for."""
        return {child.group.ref.base for child in self._waiting}

    def admit(self, replicas: Iterable[Replica]) -> list[tuple[Replica, ChildWork]]:
        """Reserve replicas, and say which suspects can go to theirs now."""
        connected = [r for r in replicas if r.is_connected and not r.is_draining]
        self._waiting = [child for child in self._waiting if child.flag == RUNNING]
        for replica in connected:
            alone = replica.reserved_for
            if alone is not None and alone.flag != RUNNING:
                replica.reserved_for = None
        placed: list[tuple[Replica, ChildWork]] = []
        for child in self._waiting:
            own = next((r for r in connected if r.reserved_for is child), None)
            if own is None:
                own = self._choose(connected, child)
            if own is not None and not own.children:
                placed.append((own, child))
        for _, child in placed:
            self._waiting.remove(child)
        return placed

    @staticmethod
    def _choose(connected: list[Replica], child: ChildWork) -> Replica | None:
        if sum(r.reserved_for is not None for r in connected) > len(connected) * _MOST_RESERVED:
            return None
        base = child.group.ref.base
        free = [r for r in connected if r.reserved_for is None and r.hello.card.base == base]
        # Where it has not failed yet, then where the least has to end first.
        own = min(
            free, key=lambda r: (r.incarnation in child.refused_by, len(r.children)), default=None
        )
        if own is not None:
            own.reserved_for = child
        return own
