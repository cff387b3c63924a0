"""Frames of a server, delta by delta, for tests that are no client."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from sampler_api.codec import deltas
from sampler_api.columns import Chunks
from sampler_api.frames import Block

__all__ = ["append"]


class Receiver(Protocol):
    """What a handle stands for."""

    columns: Chunks


def append(
    blocks: Sequence[Block], columns: memoryview, receivers: Mapping[int, Receiver]
) -> tuple[list[tuple[int, int]], int]:
    """Give every receiver its rows; handle and flag of those that ended, and the bytes taken."""
    found, position = deltas(blocks, columns)
    for block in found:
        for handle, rows in block.parts():
            receivers[handle].columns.add(rows, block.k)
    return [each for block in found for each in block.ended()], position
