"""The columns of one sequence, as they arrive: append-only bytes, viewed as arrays at the end."""

import numpy as np
from numpy.typing import NDArray

from .logprobs import LogprobRows

__all__ = ["Columns"]


class Columns:
    """Tokens i32 [T]; logprobs f32 [T] for k = 1; top ids i32 and top logprobs f32 [T, k] for k >
    1."""

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
