"""What happens to the cache outside steps: noted on rank 0, repeated by the others.

Only where things lie is told: every rank has keys and values of its own heads there.
"""

from typing import Final

from ..memory import Slab, SlabStore
from ..shape import KVShape
from .orders import Move

__all__ = ["NotedStore", "Replica"]

_MAKE: Final = 0
_RELEASE: Final = 1
_COPY: Final = 2
_WIPE: Final = 3


class NotedStore(SlabStore):
    """Adds to ``moves`` what it does."""

    def __init__(self, shape: KVShape, budget: int, slab_tokens: int, moves: list[Move]) -> None:
        super().__init__(shape, budget, slab_tokens)
        self._moves = moves

    def make(self, capacity: int, rows: int) -> Slab:
        slab = super().make(capacity, rows)
        self._moves.append((_MAKE, slab.number, capacity, rows, 0, 0))
        return slab

    def release(self, slab: Slab) -> None:
        super().release(slab)
        self._moves.append((_RELEASE, slab.number, 0, 0, 0, 0))

    def copy(self, source: Slab, row: int, target: Slab, place: int, length: int) -> None:
        super().copy(source, row, target, place, length)
        self._moves.append((_COPY, source.number, row, target.number, place, length))

    def wipe(self, slab: Slab, row: int) -> None:
        super().wipe(slab, row)
        self._moves.append((_WIPE, slab.number, row, 0, 0, 0))


class Replica:
    """The slabs of another rank, by the numbers that they have on rank 0."""

    def __init__(self, shape: KVShape, budget: int, slab_tokens: int) -> None:
        self._store = SlabStore(shape, budget, slab_tokens)
        self._slabs: dict[int, Slab] = {}

    def __getitem__(self, number: int) -> Slab:
        return self._slabs[number]

    def __len__(self) -> int:
        return len(self._slabs)

    def repeat(self, move: Move) -> None:
        """Do what rank 0 has done."""
        kind, first, *numbers = move
        if kind == _MAKE:
            self._slabs[first] = self._store.make(*numbers[:2])
        elif kind == _RELEASE:
            self._store.release(self._slabs.pop(first))
        elif kind == _COPY:
            row, target, place, length = numbers
            self._store.copy(self._slabs[first], row, self._slabs[target], place, length)
        elif kind == _WIPE:
            self._store.wipe(self._slabs[first], numbers[0])
