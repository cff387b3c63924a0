"""Random draws that belong to (seed, position, token), not to a generator.

A draw is a hash, so that a sequence gets the same noise whatever shares its batch, on any device
and after any interruption, and nothing global is touched. The token is the one with the largest
``logprob + gumbel``; a Gumbel variable is ``-log(E)`` with E exponential, made from 31 bits.
"""

import os
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["draw_keys", "log_exponentials", "private_seed"]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
# Odd multipliers of a 32-bit hash with low bias; as signed numbers, since torch multiplies int32.
_MULTIPLIER_1: Final = 0x7FEB352D
_MULTIPLIER_2: Final = 0x846CA68B - (1 << 32)


def private_seed() -> int:
    """A seed for an unseeded sequence, never the same again: not in another engine of this process,
    and not in a fork of it."""
    return int.from_bytes(os.urandom(8), "little")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def draw_keys(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Two 32-bit keys for each (seed, position): i32 [n, 2]."""
    mixed = _mix(_mix(seeds + _GOLDEN) + (positions + np.uint64(1)) * _GOLDEN)
    return mixed.view(np.int32).reshape(-1, 2)


@lru_cache(maxsize=8)
def _token_codes(vocabulary: int, device: torch.device) -> Tensor:
    """A scrambled i32 for each token id: neighbours differ in all bits."""
    codes = _mix((np.arange(vocabulary, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    return torch.from_numpy(codes.astype(np.uint32).view(np.int32)).to(device)


def log_exponentials(keys: NDArray[np.int32], vocabulary: int, device: torch.device) -> Tensor:
    """``log(E)`` for every row of keys and token: f32 [n, V]. The Gumbel noise is its negative."""
    first, second = torch.from_numpy(np.ascontiguousarray(keys.T)).to(device)[:, :, None]
    bits = torch.bitwise_xor(_token_codes(vocabulary, device)[None], first)
    bits *= _MULTIPLIER_1
    # The shift is arithmetic: the mask makes it a logical one, but for the last, where the sign
    # spreads over the upper half and leaves 31 bits and no sign.
    bits ^= (bits >> 15).bitwise_and_(0x1FFFF)
    bits += second
    bits *= _MULTIPLIER_2
    bits ^= bits >> 16
    # Small values keep their precision: they decide about tokens that are rarely drawn. Neither end
    # may become 0 or 1, whose logarithms are infinite.
    uniform = bits.to(torch.float32).clamp_(0.5, 2.0**31 - 2.0**7)
    return uniform.mul_(-(2.0**-31)).log1p_().neg_().log_()
