"""One step on the device: feed shares to the model, score prompts, draw tokens.

Nothing of a sequence changes here but keys and values at positions that are written again when a
step is repeated, so that a step that fails may be run again with fewer sequences.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .layout import Chunk, arrange
from .model import ServedModel
from .options import LogitsProcessor
from .sampling import Drawn, draw
from .scheduler import Share
from .sequence import Sequence

__all__ = ["AdapterScope", "Outcome", "run_step"]

AdapterScope = Callable[[NDArray[np.int64]], AbstractContextManager[None]]
"""Applies adapters to the tokens of a step, given the adapter number of each."""


@dataclass(slots=True)
class Outcome:
    """Sequences that drew, and what; followers draw from the logits of their leader."""

    sequences: list[Sequence]
    drawn: Drawn | None


def run_step(
    model: ServedModel,
    shares: list[Share],
    followers: Callable[[Sequence], list[Sequence]],
    adapters: AdapterScope,
    processor: LogitsProcessor | None,
) -> Outcome:
    """Feed the shares; every sequence that is read to its end draws a token."""
    chunks = []
    for sequence, count in shares:
        assert sequence.kv is not None
        start = sequence.stored
        tokens = sequence.tokens[start : start + count]
        chunks.append(Chunk(sequence.kv, start, tokens, sequence.adapter))
    layout = arrange(chunks, model.shape.heads, model.device)
    keep: list[int] = []
    scored: list[tuple[Sequence, int, int, int]] = []
    drawing: list[Sequence] = []
    places: list[int] = []
    for (sequence, count), chunk in zip(shares, chunks, strict=True):
        end = chunk.start + count
        if sequence.scorer is not None:
            first, last = sequence.scorer.wants(chunk.start, end)
            if first < last:
                scored.append((sequence, first, len(keep), last - first))
                offset = chunk.first - chunk.start
                keep.extend(range(first + offset, last + offset))
        if end == sequence.length:
            group = [sequence, *followers(sequence)]
            group = [member for member in group if not member.is_scored_only]
            drawing.extend(group)
            places.extend([len(keep)] * len(group))
            keep.append(chunk.first + count - 1)
    # A model cannot be asked for no logits at all.
    with adapters(layout.adapters):
        logits = model.forward(layout, keep or [layout.size - 1])
    for sequence, first, place, count in scored:
        assert sequence.scorer is not None
        sequence.scorer.take(first, logits[place : place + count])
    if not drawing:
        return Outcome([], None)
    if places != list(range(len(logits))):
        logits = logits[torch.tensor(places, device=model.device)]
    return Outcome(drawing, draw(logits, drawing, processor))
