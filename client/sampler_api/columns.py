"""The columns of one sequence: bytes while it grows, arrays at the end."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from .logprobs import LogprobRows

__all__ = ["Chunks", "Columns"]

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


class Chunks(msgspec.Struct, gc=False, eq=False):
    """Where a sequence arrives: the same columns as the pieces that came, joined when read.

    Whoever receives a delta appends its pieces to ``parts``, in this order: tokens; for k = 1 their
    logprobs; for k > 1 top ids and top logprobs. One list, because what a token costs is mostly the
    memory that is touched for it.
    """

    k: int = 0
    parts: list[bytes] = []

    def __len__(self) -> int:
        return len(self.tokens) >> 2

    @property
    def _stride(self) -> int:
        return min(self.k, 2) + 1

    def add(self, tokens: bytes, k: int, *columns: bytes) -> None:
        """Append a delta that was made for ``k``. Made for another k than this, it has no logprobs
        for it: they are missing then, which ``arrays`` raises."""
        self.parts.append(tokens)
        stride = self._stride
        if stride > 1:
            self.parts += columns if k == self.k else (b"",) * (stride - 1)

    def extend(self, columns: Columns) -> None:
        """Append a copy of ``columns``."""
        logprobs = (
            (columns.logprobs,) if columns.k == 1 else (columns.top_ids, columns.top_logprobs)
        )
        self.add(bytes(columns.tokens), columns.k, *map(bytes, logprobs))

    def truncate(self, length: int) -> None:
        """Drop everything after the first ``length`` tokens."""
        tokens, *others = self._joined()
        width = length * 4 * self.k
        self.parts = [tokens[: length * 4], *(other[:width] for other in others)]

    def _joined(self) -> list[bytes]:
        """One piece a column; stays so until more arrives."""
        parts, stride = self.parts, self._stride
        if len(parts) != stride:
            parts[:] = [b"".join(parts[column::stride]) for column in range(stride)]
        return parts

    @property
    def tokens(self) -> bytes:
        """Tokens i32 [T]."""
        return self._joined()[0]

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens as an array over the bytes, which never change."""
        return np.frombuffer(self._joined()[0], _I32)

    def arrays(self) -> tuple[NDArray[np.int32], LogprobRows | None]:
        """Tokens i32 [T] and their logprob rows, ``None`` when none were asked for. Raises
        ValueError when one is missing."""
        joined = self._joined()
        ids = np.frombuffer(joined[0], _I32)
        if self.k == 0:
            return ids, None
        values = np.frombuffer(joined[-1], _F32)
        if self.k == 1:
            return ids, LogprobRows(ids, values)
        shape = (len(ids), self.k)
        return ids, LogprobRows(
            np.frombuffer(joined[1], _I32).reshape(shape), values.reshape(shape)
        )
