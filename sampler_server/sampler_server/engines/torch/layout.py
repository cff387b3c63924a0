"""Where every token of a step lies: one packed row of tokens, cut by slab.

A step feeds the model one row of tokens [1, T] of many sequences. Tokens are ordered by slab; in a
slab, sequences that advance by one token come first (they share one attention call), then the
chunks of prompts (one call each). Everything that attention needs is made here once a step and used
by every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .memory import KVRow, Slab

__all__ = ["Chunk", "ChunkRun", "Layout", "SlabRun", "arrange"]


@dataclass(slots=True)
class Chunk:
    """``tokens`` i32 [c] of one sequence, at positions ``start`` to ``start + c``."""

    kv: KVRow
    start: int
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]]
    adapter: int = 0
    first: int = 0
    """Index of the first token in the packed row; set by ``arrange``."""


@dataclass(slots=True)
class ChunkRun:
    """Several tokens of one sequence: tokens ``first`` to ``last``, positions from ``start``."""

    first: int
    last: int
    row: int
    start: int

    @property
    def end(self) -> int:
        """Positions that the last token attends to."""
        return self.start + self.last - self.first


@dataclass(slots=True)
class SlabRun:
    """The tokens of one slab: ``first`` to ``last``, of which the first ``singles`` are alone."""

    slab: Slab
    first: int
    last: int
    singles: int
    writes: Tensor
    """Where each (token, head) goes: i64 [(last - first) * heads]."""
    lengths: list[int]
    """Positions that each single token attends to."""
    rows: Tensor | None
    """Rows of the single tokens; ``None`` where these are the rows 0, 1, … of the slab."""
    span: int
    """Rows of the slab that the batched call covers."""
    chunks: list[ChunkRun]
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)


@dataclass(slots=True)
class Layout:
    """One step: ids, positions i64 [1, T], the chunks in their order, and the runs."""

    ids: Tensor
    positions: Tensor
    chunks: list[Chunk]
    runs: list[SlabRun]
    size: int
    adapters: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Adapter number of every token [T]; 0 is the base."""


def arrange(chunks: Sequence[Chunk], kv_heads: int, device: torch.device) -> Layout:
    """Order the chunks and say where everything lies; sets ``first`` of each chunk."""
    by_slab: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_slab.setdefault(id(chunk.kv.slab), []).append(chunk)
    ordered: list[Chunk] = []
    runs: list[SlabRun] = []
    at = 0
    for group in by_slab.values():
        group.sort(key=lambda c: (c.tokens.size > 1, c.kv.index))
        run = _slab_run(group, at, kv_heads, device)
        runs.append(run)
        ordered.extend(group)
        at = run.last
    ids = np.concatenate([c.tokens for c in ordered]).astype(np.int64)
    positions = np.concatenate([np.arange(c.start, c.start + c.tokens.size) for c in ordered])
    adapters = np.repeat([c.adapter for c in ordered], [c.tokens.size for c in ordered])
    return Layout(
        ids=torch.from_numpy(ids)[None].to(device),
        positions=torch.from_numpy(positions)[None].to(device),
        chunks=ordered,
        runs=runs,
        size=at,
        adapters=adapters.astype(np.int64),
    )


def _slab_run(group: list[Chunk], first: int, kv_heads: int, device: torch.device) -> SlabRun:
    slab = group[0].kv.slab
    at = first
    rows: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    single_rows: list[int] = []
    runs: list[ChunkRun] = []
    for chunk in group:
        size = chunk.tokens.size
        chunk.first = at
        rows.extend([chunk.kv.index] * size)
        positions.extend(range(chunk.start, chunk.start + size))
        if size == 1:
            lengths.append(chunk.start + 1)
            single_rows.append(chunk.kv.index)
        else:
            runs.append(ChunkRun(at, at + size, chunk.kv.index, chunk.start))
        at += size
    base = np.array(rows, dtype=np.int64) * (kv_heads * slab.capacity)
    base += np.array(positions, dtype=np.int64)
    writes = base[:, None] + np.arange(kv_heads, dtype=np.int64) * slab.capacity
    singles = len(lengths)
    is_dense = single_rows == list(range(singles))
    return SlabRun(
        slab=slab,
        first=first,
        last=at,
        singles=singles,
        writes=torch.from_numpy(writes.reshape(-1)).to(device),
        lengths=lengths,
        rows=None if is_dense else torch.tensor(single_rows, device=device),
        span=max(single_rows, default=-1) + 1,
        chunks=runs,
    )
