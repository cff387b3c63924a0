"""The columns of one sequence: bytes while it grows, arrays at the end."""

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .logprobs import LogprobRows, rows_over

__all__ = ["Chunks", "Columns", "row_type"]

# A class is turned into its dtype at every call; these save that.
_I32 = np.dtype(np.int32)
_F32 = np.dtype(np.float32)


class Columns:
    """Where a sequence is made: columns that grow in place and are read while they grow.

    Tokens i32 [T]; logprobs f32 [T] for k = 1; top ids i32 and top logprobs f32 [T, k] for k >
    1.
    """

    __slots__ = ("k", "logprobs", "tokens", "top_ids", "top_logprobs")

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.tokens = bytearray()
        self.logprobs = bytearray()
        self.top_ids = bytearray()
        self.top_logprobs = bytearray()

    def __len__(self) -> int:
        return len(self.tokens) >> 2

    def truncate(self, length: int) -> None:
        """Drop everything after the first ``length`` tokens."""
        del self.tokens[length * 4 :]
        del self.logprobs[length * 4 :]
        if self.k > 1:
            del self.top_ids[length * 4 * self.k :]
            del self.top_logprobs[length * 4 * self.k :]

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens as an array over the bytes; the columns must not grow while it lives."""
        return np.frombuffer(self.tokens, np.int32)

    def rows(self) -> LogprobRows | None:
        """The logprob rows; ``None`` when none were asked for. Raises ValueError when one is
        missing."""
        if self.k == 0:
            return None
        length = len(self)
        if self.k == 1:
            return LogprobRows(self.token_ids, np.frombuffer(self.logprobs, np.float32))
        shape = (length, self.k)
        ids = np.frombuffer(self.top_ids, np.int32).reshape(shape)
        return LogprobRows(ids, np.frombuffer(self.top_logprobs, np.float32).reshape(shape))


@lru_cache(maxsize=256)
def row_type(k: int) -> "np.dtype[Any]":
    """What one token is where it arrives: ``token`` i32; for k = 1 its ``logprob`` f32; for k > 1
    ``top_ids`` i32 [k] and ``top_logprobs`` f32 [k]."""
    fields: list[Any] = [("token", _I32)]
    if k == 1:
        fields.append(("logprob", _F32))
    elif k > 1:
        fields += [("top_ids", _I32, (k,)), ("top_logprobs", _F32, (k,))]
    return np.dtype(fields)


_ROW = row_type(1)
_frombuffer = np.frombuffer


class Chunks(msgspec.Struct, gc=False, eq=False):
    """Where a sequence arrives: rows of ``row_type(k)``, in the pieces that came.

    A token and its logprobs lie together until the sequence is read: what a token costs on its way
    is mostly the number of objects that are touched for it.
    """

    k: int = 0
    parts: list[bytes | bytearray] = []
    """Whoever receives rows of this ``k`` appends them here."""
    is_short: bool = False
    """Some tokens came without the logprobs that were asked for."""

    def __len__(self) -> int:
        return sum(map(len, self.parts)) // row_type(self.k).itemsize

    def add(self, rows: bytes, k: int) -> None:
        """Append rows of any ``k``. Made for another than this, they have no logprobs for it: they
        are missing then, which ``arrays`` raises."""
        if k != self.k:
            own = np.zeros(len(rows) // row_type(k).itemsize, row_type(self.k))
            own["token"] = np.frombuffer(rows, row_type(k))["token"]
            rows = own.tobytes()
            self.is_short = self.is_short or (len(own) > 0 and self.k > 0)
        self.parts.append(rows)

    def extend(self, columns: Columns) -> None:
        """Append a copy of ``columns``; where logprobs are missing there, they are here."""
        k, length = columns.k, len(columns)
        rows = np.zeros(length, row_type(k))
        rows["token"] = columns.token_ids
        values = columns.top_logprobs if k > 1 else columns.logprobs
        if len(values) != 4 * length * k or (k > 1 and len(columns.top_ids) != len(values)):
            self.is_short = True
        elif k == 1:
            rows["logprob"] = np.frombuffer(values, _F32)
        elif k > 1:
            rows["top_ids"] = np.frombuffer(columns.top_ids, _I32).reshape(length, k)
            rows["top_logprobs"] = np.frombuffer(values, _F32).reshape(length, k)
        self.add(rows.tobytes(), k)

    def truncate(self, length: int) -> None:
        """Drop everything after the first ``length`` tokens."""
        self.parts = [self._joined()[: length * row_type(self.k).itemsize]]

    def _joined(self) -> bytes | bytearray:
        """One piece; stays so until more arrives."""
        parts = self.parts
        if len(parts) != 1:
            parts[:] = [b"".join(parts)]
        return parts[0]

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens i32 [T]."""
        ids: NDArray[np.int32] = np.frombuffer(self._joined(), row_type(self.k))["token"].copy()
        return ids

    def arrays(self) -> tuple[NDArray[np.int32], LogprobRows | None]:
        """Tokens i32 [T] and their logprob rows, ``None`` when none were asked for. Raises
        ValueError when one is missing.

        All are views of one copy of the rows, with a stride of a row: to gather each column would
        cost as much again as all that came before.
        """
        parts = self.parts
        # Unlike bytes, it can be written to, as people expect of an array that is theirs.
        is_own = len(parts) == 1 and type(parts[0]) is bytearray
        whole = parts[0] if is_own else bytearray().join(parts)
        k = self.k
        rows = _frombuffer(whole, _ROW if k == 1 else row_type(k))
        ids = rows["token"]
        if k == 0:
            return ids, None
        if self.is_short:
            raise ValueError(f"not every one of {len(ids)} tokens came with its {k} logprobs")
        if k == 1:
            return ids, rows_over(ids, rows["logprob"])
        return ids, rows_over(rows["top_ids"], rows["top_logprobs"])
