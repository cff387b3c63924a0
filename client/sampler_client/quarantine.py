"""Sequences that engines fail on: each is tried once more alone, where it harms nobody. Pure.

Alone means: the replica is reserved and gets no new work, and everything else that runs there has
made a token in its present attempt, so that nobody but the suspect can be to blame for what happens
next. The reservation ends with the suspect's first token, or with the suspect.
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
    """Engines failed on it twice, or three replicas in a row died with it before its first
    token."""
    return child.failures >= _SUSPECT_FAILURES or child.deaths >= _SUSPECT_DEATHS


class Quarantine:
    """The suspects that wait for a replica of their own, and the replicas that they have."""

    def __init__(self) -> None:
        self._waiting: list[ChildWork] = []
        self._reserved: list[Replica] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._reserved)

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
        """Reserve and free replicas, and say which suspects can go to theirs now."""
        admitting = [r for r in replicas if r.is_admitting]
        self._waiting = [child for child in self._waiting if child.flag == RUNNING]
        for replica in self._reserved:
            self._free(replica)
        self._reserved = [r for r in self._reserved if r.reserved_for is not None]
        placed: list[tuple[Replica, ChildWork]] = []
        for child in self._waiting:
            own = next((r for r in self._reserved if r.reserved_for is child), None)
            if own is None:
                own = self._reserve(admitting, child)
            if own is not None and all(map(own.has_begun, own.children.values())):
                placed.append((own, child))
        for _, child in placed:
            self._waiting.remove(child)
        return placed

    def _free(self, replica: Replica) -> None:
        suspect = replica.reserved_for
        if suspect is None:
            return
        if suspect.flag != RUNNING or not replica.is_admitting:
            replica.reserved_for = None
        elif replica.children.get(suspect.handle) is suspect and replica.has_begun(suspect):
            suspect.deaths = 0
            replica.reserved_for = None

    def _reserve(self, admitting: list[Replica], child: ChildWork) -> Replica | None:
        if len(self._reserved) > len(admitting) * _MOST_RESERVED:
            return None
        base = child.group.ref.base
        free = [r for r in admitting if r.reserved_for is None and r.hello.card.base == base]
        # Where it has not failed yet, then where the least runs.
        own = min(
            free, key=lambda r: (r.incarnation in child.refused_by, len(r.children)), default=None
        )
        if own is not None:
            own.reserved_for = child
            self._reserved.append(own)
        return own
