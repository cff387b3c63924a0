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

    Whoever receives a delta appends ``tokens`` to ``token_parts`` and, as ``k`` asks for,
    ``logprobs`` or ``top_logprobs`` to ``value_parts`` and ``top_ids`` to ``id_parts``; that costs
    next to nothing a token.
    """

    k: int = 0
    token_parts: list[bytes] = []
    value_parts: list[bytes] = []
    id_parts: list[bytes] = []

    def __len__(self) -> int:
        return len(self.tokens) >> 2

    def extend(self, columns: Columns) -> None:
        """Append a copy of ``columns``, which have the same k."""
        self.token_parts.append(bytes(columns.tokens))
        if self.k == 1:
            self.value_parts.append(bytes(columns.logprobs))
        elif self.k:
            self.value_parts.append(bytes(columns.top_logprobs))
            self.id_parts.append(bytes(columns.top_ids))

    def truncate(self, length: int) -> None:
        """Drop everything after the first ``length`` tokens."""
        width = length * 4 * max(1, self.k)
        self.token_parts = [self.tokens[: length * 4]]
        self.value_parts = [_joined(self.value_parts)[:width]]
        self.id_parts = [_joined(self.id_parts)[:width]]

    @property
    def tokens(self) -> bytes:
        """Tokens i32 [T]."""
        return _joined(self.token_parts)

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens as an array over the bytes, which never change."""
        return np.frombuffer(_joined(self.token_parts), _I32)

    def arrays(self) -> tuple[NDArray[np.int32], LogprobRows | None]:
        """Tokens i32 [T] and their logprob rows, ``None`` when none were asked for. Raises
        ValueError when one is missing."""
        ids = np.frombuffer(_joined(self.token_parts), _I32)
        if self.k == 0:
            return ids, None
        values = np.frombuffer(_joined(self.value_parts), _F32)
        if self.k == 1:
            return ids, LogprobRows(ids, values)
        shape = (len(ids), self.k)
        top_ids = np.frombuffer(_joined(self.id_parts), _I32)
        return ids, LogprobRows(top_ids.reshape(shape), values.reshape(shape))


def _joined(parts: list[bytes]) -> bytes:
    if len(parts) != 1:
        parts[:] = (b"".join(parts),)
    return parts[0]
