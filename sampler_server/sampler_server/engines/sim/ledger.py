"""The ledger of ``sim``: every token that an engine made, written before anybody sees it.

A file of records; a record is ``magic, crc32 of the rest, tokens in the record, fixed fields,
tokens i32``, all little-endian. Several processes may append to one file. A process that is killed
can leave a torn record: its tokens reached nobody, and readers skip to the next magic.
"""

import os
import struct
import zlib
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..base import EngineRequest
from .tokens import prefix_state

__all__ = ["LedgerRecord", "LedgerWriter", "parse_records", "prompt_digest"]

_MAGIC = b"\xa5SIMLDG\n"
_HEAD = struct.Struct("<8sI")
_FIXED = struct.Struct("<IQQQQQBI")


class LedgerRecord(msgspec.Struct, frozen=True):
    """Tokens ``offset`` … ``offset + len(tokens)`` of one attempt (``key``) of one sequence.

    ``prompt`` is :func:`prompt_digest`; ``weights`` is ``tokens.weights_state`` of the revision.
    """

    prompt: int
    weights: int
    key: int
    group: int
    seed: int | None
    offset: int
    tokens: tuple[int, ...]


def prompt_digest(prompt: NDArray[np.int32]) -> int:
    """64 bits of the prompt ids, the same for every process and revision."""
    return prefix_state(0, prompt)


class LedgerWriter:
    """Appends records; one ``write`` call for all that belong to one step."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._pending: list[bytes] = []

    def add(
        self, request: EngineRequest, digest: int, weights: int, offset: int, tokens: bytes
    ) -> None:
        """One delta, to be written by the next :meth:`flush`."""
        has_seed = request.seed is not None
        seed = (request.seed or 0) % (1 << 64)
        fixed = _FIXED.pack(
            len(tokens) >> 2,
            digest,
            weights,
            request.key % (1 << 64),
            request.group % (1 << 64),
            seed,
            has_seed,
            offset,
        )
        body = fixed + tokens
        self._pending += (_HEAD.pack(_MAGIC, zlib.crc32(body)), body)

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> "LedgerWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def parse_records(data: bytes) -> list[LedgerRecord]:
    """All whole records of a ledger, in the order of the file; torn ones are left out."""
    records: list[LedgerRecord] = []
    position = data.find(_MAGIC)
    while position >= 0:
        start = position + _HEAD.size
        next_try = position + 1
        if start + _FIXED.size <= len(data):
            _, crc = _HEAD.unpack_from(data, position)
            count, prompt, weights, key, group, seed, has_seed, offset = _FIXED.unpack_from(
                data, start
            )
            end = start + _FIXED.size + count * 4
            if end <= len(data) and zlib.crc32(data[start:end]) == crc:
                tokens = struct.unpack_from(f"<{count}i", data, start + _FIXED.size)
                records.append(
                    LedgerRecord(
                        prompt, weights, key, group, seed if has_seed else None, offset, tokens
                    )
                )
                next_try = end
        position = data.find(_MAGIC, next_try)
    return records
