"""The memory of keys and values: slabs of equal rows under one token budget.

A sequence has one row: a contiguous stretch of positions for every layer. Rows of one capacity lie
side by side in a slab, so that attention over a slab is one batched call on a plain view, without
gathering pages. A row that outgrows its slab moves to one of twice the capacity; a row that leaves
is replaced by the last of its capacity, so that slabs stay dense. All slabs up to the slab size
have the same number of bytes and are used again under another capacity.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .shape import KVShape

__all__ = ["KVMemory", "KVRow", "Slab", "SlabStore"]

# Smaller rows would save little memory and split the batch into more attention calls.
SMALLEST_ROW = 128


class KVRow:
    """Where the keys and values of one sequence lie, and how many positions are filled."""

    __slots__ = ("index", "length", "slab")

    def __init__(self, slab: "Slab", index: int) -> None:
        self.slab = slab
        self.index = index
        self.length = 0


class Slab:
    """``rows`` rows of ``capacity`` tokens; ``data`` is [layers, 2, rows, heads, capacity, dim].

    ``number`` is never used again, so that other processes can name the slab.
    """

    __slots__ = (
        "capacity",
        "data",
        "flat",
        "flat_keys",
        "flat_values",
        "keys",
        "number",
        "owners",
        "rows",
        "values",
    )

    def __init__(self, number: int, flat: Tensor, shape: KVShape, capacity: int, rows: int) -> None:
        self.number = number
        self.flat = flat
        self.capacity = capacity
        self.rows = rows
        self.data = flat.view(shape.layers, 2, rows, shape.heads, capacity, shape.dim)
        # Views are made once: a step needs four of them for every layer.
        self.keys = [self.data[layer, 0] for layer in range(shape.layers)]
        self.values = [self.data[layer, 1] for layer in range(shape.layers)]
        self.flat_keys = [keys.view(-1, shape.dim) for keys in self.keys]
        self.flat_values = [values.view(-1, shape.dim) for values in self.values]
        self.owners: list[KVRow] = []

    @property
    def has_room(self) -> bool:
        return len(self.owners) < self.rows

    @property
    def tokens(self) -> int:
        """Tokens that the slab counts against the budget."""
        return self.rows * self.capacity


class SlabStore:
    """The tensors of slabs: what is in them moves here and nowhere else.

    Where rows go is ``KVMemory``'s decision. Stores that are asked the same in the same order hold
    the same slabs, which is how several processes keep their parts of one cache.
    """

    def __init__(self, shape: KVShape, budget: int, slab_tokens: int) -> None:
        self._shape = shape
        self._budget = budget
        self._slab_tokens = slab_tokens
        self._spare: list[Tensor] = []
        self._last = 0
        self.allocated = 0
        """Tokens in slabs that are in use."""

    def make(self, capacity: int, rows: int) -> Slab:
        """A slab of zeros, or of what an earlier one has left; raises when the device is full."""
        tokens = rows * capacity
        if tokens == self._slab_tokens and self._spare:
            flat = self._spare.pop()
        else:
            while self._spare and self.allocated + self._spare_tokens + tokens > self._budget:
                self._spare.pop()
            # Zeros, not empty: attention multiplies what is masked by zero, which NaN survives.
            flat = torch.zeros(
                tokens * self._shape.values_per_token,
                dtype=self._shape.dtype,
                device=self._shape.device,
            )
        self.allocated += tokens
        self._last += 1
        return Slab(self._last, flat, self._shape, capacity, rows)

    def release(self, slab: Slab) -> None:
        """Take a slab back; its memory is used again."""
        self.allocated -= slab.tokens
        if slab.tokens == self._slab_tokens:
            self._spare.append(slab.flat)

    def copy(self, source: Slab, row: int, target: Slab, place: int, length: int) -> None:
        """Copy the first ``length`` positions of all layers from a row to the row ``place``."""
        target.data[:, :, place, :, :length] = source.data[:, :, row, :, :length]

    def wipe(self, slab: Slab, row: int) -> None:
        """Zero a row."""
        slab.data[:, :, row].zero_()

    @property
    def _spare_tokens(self) -> int:
        return len(self._spare) * self._slab_tokens


class KVMemory:
    """Places rows within ``budget`` tokens; never allocates more."""

    def __init__(
        self,
        shape: KVShape,
        budget: int,
        slab_tokens: int,
        row_limit: int,
        make_store: Callable[[KVShape, int, int], SlabStore] = SlabStore,
    ) -> None:
        self._slab_tokens = min(_power_of_two(slab_tokens), _power_of_two_below(budget))
        self.budget = budget
        self.row_limit = min(row_limit, budget)
        self._slabs: dict[int, list[Slab]] = {}
        self._store = make_store(shape, budget, self._slab_tokens)

    def capacity_for(self, length: int) -> int:
        """Capacity of the row that a sequence of this length lives in."""
        wanted = max(SMALLEST_ROW, _power_of_two(length))
        if wanted <= self._slab_tokens:
            return wanted
        return max(length, min(wanted, self.row_limit))

    @property
    def used(self) -> int:
        """Tokens in rows that sequences hold."""
        return sum(len(slab.owners) * slab.capacity for slab in self.slabs())

    @property
    def allocated(self) -> int:
        """Tokens in slabs with at least one row; at most the budget."""
        return self._store.allocated

    def slabs(self) -> Iterator[Slab]:
        """All slabs that hold rows."""
        for slabs in self._slabs.values():
            yield from slabs

    def place(self, length: int) -> KVRow | None:
        """A row for ``length`` tokens, or ``None`` where the budget has no room."""
        capacity = self.capacity_for(length)
        slabs = self._slabs.setdefault(capacity, [])
        slab = next((slab for slab in slabs if slab.has_room), None)
        if slab is None:
            slab = self._new_slab(capacity)
            if slab is None:
                return None
            slabs.append(slab)
        row = KVRow(slab, len(slab.owners))
        slab.owners.append(row)
        return row

    def grow(self, row: KVRow, length: int) -> bool:
        """Make room for ``length`` tokens, moving the row where needed; false if none is left."""
        if length <= row.slab.capacity:
            return True
        larger = self.place(length)
        if larger is None:
            return False
        self.copy(row, larger, row.length)
        self.free(row)
        larger.slab.owners[larger.index] = row
        row.slab, row.index, row.length = larger.slab, larger.index, larger.length
        return True

    def copy(self, source: KVRow, target: KVRow, length: int) -> None:
        """Copy the first ``length`` positions of all layers."""
        if length:
            self._store.copy(source.slab, source.index, target.slab, target.index, length)
        target.length = length

    def free(self, row: KVRow) -> None:
        """Give a row back; the last row of that capacity takes its place."""
        slabs = self._slabs[row.slab.capacity]
        donor = min((slab for slab in slabs if slab.owners), key=lambda s: len(s.owners))
        if len(row.slab.owners) == len(donor.owners):
            donor = row.slab
        last = donor.owners.pop()
        if last is not row:
            self.copy(last, row, last.length)
            row.slab.owners[row.index] = last
            last.slab, last.index = row.slab, row.index
        if not donor.owners:
            slabs.remove(donor)
            self._store.release(donor)

    def wipe(self, row: KVRow) -> None:
        """Zero a row that may hold values that are not finite: a mask does not silence them."""
        self._store.wipe(row.slab, row.index)

    def _new_slab(self, capacity: int) -> Slab | None:
        rows = max(1, self._slab_tokens // capacity)
        if self._store.allocated + rows * capacity > self.budget:
            return None
        return self._store.make(capacity, rows)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def _power_of_two_below(number: int) -> int:
    """The largest power of two that is not above ``number``."""
    return 1 << (number.bit_length() - 1)
