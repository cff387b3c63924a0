"""The size of a model's keys and values."""

from dataclasses import dataclass

import torch

__all__ = ["KVShape"]


@dataclass(frozen=True, slots=True)
class KVShape:
    """Keys and values of one token: [layers, 2, heads, dim] of ``dtype`` on ``device``."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def values_per_token(self) -> int:
        """Numbers stored for one token."""
        return self.layers * 2 * self.heads * self.dim
