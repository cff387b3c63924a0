"""Logprob columns as the nested lists that recipes expect, without making them before somebody
looks.

A row is ``[(token_id, logprob), …]``, the sampled token first. A :class:`LogprobRows` is a
``Sequence`` of rows over flat columns; it equals, slices, adds, pickles and copies like the list of
lists that it stands for.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogprobRow", "LogprobRows", "rows_over"]

LogprobRow = list[tuple[int, float]]


class LogprobRows(Sequence[LogprobRow]):
    """Rows over ``tokens`` i32 [T] and ``logprobs`` f32 [T], or over ``top_ids`` and
    ``top_logprobs`` [T, k].

    In a top column an id of -1 marks a candidate that was masked out: the row is shorter. Columns
    need not be C-contiguous; those of a sampler have the stride of a row (``results``).
    """

    __slots__ = ("_ids", "_values")

    def __init__(self, ids: NDArray[np.int32], values: NDArray[np.float32]) -> None:
        if ids.shape != values.shape:
            raise ValueError(f"ids {ids.shape} and logprobs {values.shape} differ in shape")
        self._ids = ids
        self._values = values

    @property
    def ids(self) -> NDArray[np.int32]:
        """Candidate ids, i32 [T] or [T, k]."""
        return self._ids

    @property
    def values(self) -> NDArray[np.float32]:
        """Candidate logprobs, f32 [T] or [T, k]."""
        return self._values

    @property
    def sampled(self) -> NDArray[np.float32]:
        """Logprob of each sampled token, f32 [T]; no Python object per token."""
        return self._values if self._values.ndim == 1 else self._values[:, 0]

    def _row(self, index: int) -> LogprobRow:
        if self._ids.ndim == 1:
            return [(int(self._ids[index]), float(self._values[index]))]
        pairs = zip(self._ids[index].tolist(), self._values[index].tolist(), strict=True)
        return [(i, v) for i, v in pairs if i >= 0]

    def tolist(self) -> list[LogprobRow]:
        """Real lists of rows."""
        if self._ids.ndim == 1:
            pairs = zip(self._ids.tolist(), self._values.tolist(), strict=True)
            return [[pair] for pair in pairs]
        return [self._row(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> LogprobRow: ...
    @overload
    def __getitem__(self, index: slice) -> "LogprobRows": ...
    def __getitem__(self, index: int | slice) -> "LogprobRow | LogprobRows":
        if isinstance(index, slice):
            return LogprobRows(self._ids[index], self._values[index])
        return self._row(index)

    def __iter__(self) -> Iterator[LogprobRow]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LogprobRows):
            return self.tolist() == other.tolist()
        if isinstance(other, list | tuple):
            return self.tolist() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Sequence[LogprobRow]) -> list[LogprobRow]:
        return self.tolist() + list(other)

    def __radd__(self, other: Sequence[LogprobRow]) -> list[LogprobRow]:
        return list(other) + self.tolist()

    def __repr__(self) -> str:
        return repr(self.tolist())

    def __reduce__(self) -> tuple[Any, ...]:
        return LogprobRows, (self._ids.copy(), self._values.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> "LogprobRows":
        return LogprobRows(self._ids.copy(), self._values.copy())


def rows_over(ids: NDArray[np.int32], values: NDArray[np.float32]) -> LogprobRows:
    """Rows over two fields of one array, whose shapes cannot differ."""
    # The constructor and a class method would each cost as much as the fields themselves.
    made = _new(LogprobRows)
    made._ids = ids
    made._values = values
    return made


_new = LogprobRows.__new__
