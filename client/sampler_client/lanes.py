"""Where the tokens of the sequences in flight on one session arrive. No I/O.

A sequence has a lane, in which its newest rows lie until the lane is full or the sequence leaves;
then they become one piece of its columns. So what a frame costs does not grow with its deltas where
these are alike: all that have one length move with one array operation, and engines that decode
their sequences in step send such frames.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sampler_api.codec import Deltas
from sampler_api.columns import Chunks, row_type

__all__ = ["LANE_BYTES", "Lanes", "Receiver"]

LANE_BYTES: Final = 2048
"""Of a lane: 256 tokens with their logprobs."""

_NOBODY: Final = -1
_FIRST: Final = 64
_ALIKE: Final = 8
"""Deltas of one length, on average, from which array operations cost less than a loop."""


class Receiver(Protocol):
    """What a handle stands for: anything with columns."""

    columns: Chunks


class Lanes:
    """Lanes of ``receivers`` by handle: a small integer, given again once it is closed. Whoever
    owns the mapping opens a handle behind putting it there."""

    __slots__ = ("_bytes", "_cells", "_fill", "_fills", "_k", "_mark", "_receivers", "_seen")

    def __init__(self, receivers: Mapping[int, Receiver]) -> None:
        self._receivers = receivers
        self._cells = np.empty(0, np.uint8)
        # Logprobs a token that the receiver of a handle wants.
        self._k = np.empty(0, np.int32)
        # Bytes in each lane.
        self._fill = np.empty(0, np.int64)
        self._seen = np.empty(0, np.int64)
        self._mark = np.empty(0, np.int64)

    def open(self, handle: int, tick: int) -> None:
        """The handle stands for a receiver from now on, which was alive at ``tick``."""
        if handle >= len(self._k):
            self._grow(max(_FIRST, 2 * len(self._k), handle + 1))
        self._k[handle] = self._receivers[handle].columns.k
        self._seen[handle] = tick

    def close(self, handle: int, columns: Chunks) -> int:
        """It stands for nobody, and what lies in its lane goes to ``columns``; the tick of its last
        sign of life."""
        self._empty(handle, columns)
        self._k[handle] = _NOBODY
        return int(self._seen[handle])

    def tokens(self, handle: int) -> int:
        """Those of an open handle that are not in its columns yet."""
        return self._fills[handle] // row_type(int(self._k[handle])).itemsize

    def stale(self, before: int) -> list[int]:
        """Open handles that have shown no life since a tick."""
        found: list[int] = np.flatnonzero((self._k != _NOBODY) & (self._seen < before)).tolist()
        return found

    def see(self, handles: list[int], tick: int) -> None:
        """These live, though they bring no token."""
        known = len(self._seen)
        self._seen[[handle for handle in handles if 0 <= handle < known]] = tick

    def take(self, deltas: Deltas, tick: int) -> None:
        """Append every delta to what its receiver has. Deltas for a handle that stands for nobody
        are dropped: they belong to an attempt that is over."""
        if not self._take_alike(deltas, tick):
            self._take_each(deltas, tick)

    def _take_alike(self, deltas: Deltas, tick: int) -> bool:
        """Whether rows were moved length by length, which is right for most frames."""
        k, rows, counts, number = deltas.k, deltas.rows, deltas.counts, len(deltas.handles)
        if k > 1 or number < _ALIKE:
            return False
        lengths = [len(rows) // number] if counts is None else np.unique(counts).tolist()
        if len(lengths) * _ALIKE > number or lengths[-1] * rows.itemsize > LANE_BYTES:
            return False
        handles = deltas.handles.astype(np.intp)
        if int(handles.max()) >= len(self._k) or (self._k[handles] != k).any():
            return False
        order = np.arange(number)
        self._mark[handles] = order
        if (self._mark[handles] != order).any():
            # Twice in one block, where only the latter of two would be kept.
            return False
        if counts is None:
            self._move(handles, rows, np.arange(0, len(rows), lengths[0] or 1), lengths[0], tick)
            return True
        starts = np.cumsum(counts, dtype=np.int64) - counts
        for length in lengths:
            chosen = np.flatnonzero(counts == length)
            self._move(handles[chosen], rows, starts[chosen], length, tick)
        return True

    def _move(
        self,
        handles: NDArray[np.intp],
        rows: NDArray[Any],
        starts: NDArray[np.int64],
        length: int,
        tick: int,
    ) -> None:
        """``length`` rows from each of ``starts`` to the lane of each handle."""
        if not length:
            return
        width = rows.itemsize
        size = length * width
        fill = self._fill[handles]
        is_full = fill > LANE_BYTES - size
        if is_full.any():
            for handle in handles[is_full].tolist():
                self._empty(handle, self._receivers[handle].columns)
            fill[is_full] = 0
        into = (handles * LANE_BYTES + fill) // width
        _runs(self._cells, width, size)[into] = _runs(rows, width, size)[starts]
        self._fill[handles] = fill + size
        self._seen[handles] = tick

    def _take_each(self, deltas: Deltas, tick: int) -> None:
        """One after the other."""
        k = deltas.k
        find = self._receivers.get
        for handle, part in deltas.parts():
            receiver = find(handle)
            if receiver is None or not part:
                continue
            columns = receiver.columns
            self._empty(handle, columns)
            if columns.k == k:
                columns.parts.append(part)
            else:
                columns.add(part, k)
            self._seen[handle] = tick

    def _empty(self, handle: int, columns: Chunks) -> None:
        size = self._fills[handle]
        if size:
            start = handle * LANE_BYTES
            columns.parts.append(bytearray(self._bytes[start : start + size]))
            self._fills[handle] = 0

    def _grow(self, number: int) -> None:
        more = number - len(self._k)
        self._cells = np.concatenate([self._cells, np.empty(more * LANE_BYTES, np.uint8)])
        self._bytes = self._cells.data
        self._k = np.concatenate([self._k, np.full(more, _NOBODY, np.int32)])
        self._fill = np.concatenate([self._fill, np.zeros(more, np.int64)])
        self._fills = self._fill.data
        self._seen = np.concatenate([self._seen, np.zeros(more, np.int64)])
        self._mark = np.empty(number, np.int64)


def _runs(data: NDArray[Any], width: int, size: int) -> NDArray[Any]:
    """Every run of ``size`` bytes that begins at a multiple of ``width``, as one element each;
    they overlap."""
    number = (data.nbytes - size) // width + 1
    return np.ndarray((number,), _run_type(size), data, 0, (width,))


@lru_cache(maxsize=LANE_BYTES)
def _run_type(size: int) -> "np.dtype[np.void]":
    return np.dtype((np.void, size))
