"""Frames to bytes and back. Pure; a malformed frame raises ProtocolError and nothing else.

The cost that matters is the client's: :func:`deltas` gives a frame's tokens as rows, one array of
them a block, and ``sampler_client.lanes`` moves all rows of a block at once to where they belong.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .columns import row_type
from .errors import ProtocolError
from .frames import (
    Block,
    ClientFrame,
    ClientHello,
    PromptBlock,
    ServerFrame,
    ServerHello,
)

__all__ = [
    "Buffer",
    "DeltaWriter",
    "Deltas",
    "PromptColumns",
    "client_columns",
    "decode_client",
    "decode_server",
    "deltas",
    "encode_frame",
    "prompt_columns",
]

Buffer = bytes | bytearray | memoryview
Header = ClientHello | ServerHello | ClientFrame | ServerFrame

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_client_decoder = msgspec.msgpack.Decoder(ClientHello | ClientFrame)
_server_decoder = msgspec.msgpack.Decoder(ServerHello | ServerFrame)
_LARGEST_K = 1 << 20
"""More than any vocabulary has."""
_FORMAT = {1: "B", 2: "H", 4: "I"}
_TYPE = {width: np.dtype(f"<u{width}") for width in _FORMAT}


def encode_frame(header: Header, columns: Sequence[Buffer] = ()) -> bytes:
    """One frame; ``columns`` in the order of the header."""
    head = _encoder.encode(header)
    return b"".join((_LENGTH.pack(len(head)), head, *columns))


def _split(data: Buffer) -> tuple[memoryview, memoryview]:
    view = memoryview(data)
    if len(view) < 4:
        raise ProtocolError("frame: shorter than its length field")
    (length,) = _LENGTH.unpack_from(view)
    if length > len(view) - 4:
        raise ProtocolError(f"frame: header of {length} bytes in a frame of {len(view)} bytes")
    return view[4 : 4 + length], view[4 + length :]


def decode_client(data: Buffer) -> tuple[ClientHello | ClientFrame, memoryview]:
    """Header and columns of a client's frame."""
    head, columns = _split(data)
    try:
        return _client_decoder.decode(head), columns
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"frame: {error}") from None


def decode_server(data: Buffer) -> tuple[ServerHello | ServerFrame, memoryview]:
    """Header and columns of a server's frame."""
    head, columns = _split(data)
    try:
        return _server_decoder.decode(head), columns
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"frame: {error}") from None


def client_columns(
    frame: ClientFrame, columns: memoryview
) -> tuple[list[memoryview], list[memoryview], list[int]]:
    """Prompts (i32 views, by the table), outputs (i32 views, one per child with output), acked
    handles.

    Raises ProtocolError when lengths or indices do not fit; nothing of the frame may be used then.
    """
    tables = len(frame.prompts), len(frame.params), len(frame.revisions)
    outputs: list[int] = []
    for submit in frame.submits:
        if not (
            0 <= submit.prompt < tables[0]
            and 0 <= submit.params < tables[1]
            and 0 <= submit.revision < tables[2]
        ):
            raise ProtocolError(f"frame: submit {submit.seq} points outside the frame's tables")
        if not submit.children:
            raise ProtocolError(f"frame: submit {submit.seq} has no children")
        for child in submit.children:
            if child.output_length:
                outputs.append(child.output_length)
    sizes = [*frame.prompts, *outputs, frame.acks]
    if min(sizes) < 0 or sum(sizes) * 4 != len(columns):
        raise ProtocolError(
            f"frame: {len(columns)} bytes of columns, the header says {sum(sizes) * 4}"
        )
    views: list[memoryview] = []
    position = 0
    for size in sizes:
        views.append(columns[position : position + size * 4])
        position += size * 4
    acks = np.frombuffer(views.pop(), np.uint32).tolist()
    return views[: tables[0]], views[tables[0] :], acks


def _width(largest: int) -> int:
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


class _BlockColumns:
    __slots__ = ("counts", "flags", "handles", "logprobs", "tokens", "top_ids")

    def __init__(self) -> None:
        self.handles: list[int] = []
        self.counts: list[int] = []
        self.flags = bytearray()
        self.tokens: list[Buffer] = []
        self.logprobs: list[Buffer] = []
        self.top_ids: list[Buffer] = []


class DeltaWriter:
    """Collects the deltas that go into one frame; each is added once, then ``finish`` gives blocks
    and columns."""

    __slots__ = ("_blocks", "_prompt_columns", "_prompts")

    def __init__(self) -> None:
        self._blocks: dict[int, _BlockColumns] = {}
        self._prompts: list[PromptBlock] = []
        self._prompt_columns: list[Buffer] = []

    def add(
        self,
        handle: int,
        flag: int,
        k: int,
        tokens: Buffer,
        logprobs: Buffer,
        top_ids: Buffer = b"",
    ) -> None:
        """One delta; ``logprobs`` f32 [T] for k = 1, [T, k] beside ``top_ids`` for k > 1."""
        block = self._blocks.get(k)
        if block is None:
            block = self._blocks[k] = _BlockColumns()
        block.handles.append(handle)
        block.counts.append(len(tokens) >> 2)
        block.flags.append(flag)
        block.tokens.append(tokens)
        if k:
            block.logprobs.append(logprobs)
            if k > 1:
                block.top_ids.append(top_ids)

    def add_prompt(
        self, handle: int, k: int, logprobs: Buffer, top_ids: Buffer, top_logprobs: Buffer
    ) -> None:
        """Prompt logprobs f32 [P] and candidates [P, k]."""
        self._prompts.append(PromptBlock(handle, len(logprobs) >> 2, k))
        self._prompt_columns += (logprobs, top_ids, top_logprobs)

    def __bool__(self) -> bool:
        return bool(self._blocks or self._prompts)

    def finish(self) -> tuple[list[Block], list[PromptBlock], list[Buffer]]:
        """Headers and columns of everything that was added."""
        blocks: list[Block] = []
        columns: list[Buffer] = []
        for k, block in self._blocks.items():
            counts, number = block.counts, len(block.handles)
            handle_width, most = _width(max(block.handles)), max(counts)
            count_width = 0 if min(counts) == most else _width(most)
            flag_width = 1 if any(block.flags) else 0
            blocks.append(Block(k, number, sum(counts), handle_width, count_width, flag_width))
            columns.append(struct.pack(f"<{number}{_FORMAT[handle_width]}", *block.handles))
            if count_width:
                columns.append(struct.pack(f"<{number}{_FORMAT[count_width]}", *counts))
            if flag_width:
                columns.append(block.flags)
            columns += block.tokens
            if k > 1:
                columns += block.top_ids
            columns += block.logprobs
        return blocks, self._prompts, columns + self._prompt_columns


class Deltas(msgspec.Struct, gc=False, eq=False):
    """One block: of each delta its handle, its tokens and its flag; ``rows`` [T] of all, one after
    the other."""

    k: int
    handles: NDArray[Any]
    """u8, u16 or u32 [N]."""
    counts: NDArray[Any] | None
    """Tokens of each delta, u8, u16 or u32 [N]; ``None``: all have as many."""
    flags: bytes
    """[N], or empty: none is set."""
    rows: NDArray[Any]
    """``columns.row_type(k)`` [T]."""

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Handle and rows of each."""
        handles = self.handles.tolist()
        if self.counts is not None:
            counts = self.counts.tolist()
        else:
            counts = [len(self.rows) // len(handles)] * len(handles) if handles else []
        parts = _cutter(counts, self.rows.itemsize).unpack_from(self.rows.data)
        return zip(handles, parts, strict=True)

    def ended(self) -> list[tuple[int, int]]:
        """Handle and flag of those that have ended."""
        if not any(self.flags):
            return []
        return [(h, f) for h, f in zip(self.handles.tolist(), self.flags, strict=True) if f]


def deltas(blocks: Sequence[Block], columns: memoryview) -> tuple[list[Deltas], int]:
    """The deltas of a frame, block by block, and the bytes that they took.

    Raises ProtocolError when lengths do not fit; nothing of the frame may be used then.
    """
    found: list[Deltas] = []
    position = 0
    for block in blocks:
        k, number, tokens, hw, cw, fw = (
            block.k,
            block.deltas,
            block.tokens,
            block.handle_width,
            block.count_width,
            block.flag_width,
        )
        is_possible = hw in _TYPE and (cw == 0 or cw in _TYPE) and fw in (0, 1)
        if not is_possible or min(k, number, tokens) < 0 or k > _LARGEST_K:
            raise ProtocolError("frame: a block with impossible sizes")
        size = number * (hw + cw + fw) + tokens * (4 + 4 * k * (2 if k > 1 else 1))
        if position + size > len(columns):
            raise ProtocolError(f"frame: block of {size} bytes beyond the end of the frame")
        a = position + number * hw
        b = a + number * cw
        c = b + number * fw
        handles = np.frombuffer(columns, _TYPE[hw], number, position)
        counts = np.frombuffer(columns, _TYPE[cw], number, a) if cw else None
        total = tokens // number * number if counts is None and number else 0
        if counts is not None:
            total = int(counts.sum(dtype=np.int64))
        if total != tokens:
            raise ProtocolError("frame: counts do not add up to the block's tokens")
        rows = _rows(k, tokens, columns, c)
        found.append(Deltas(k, handles, counts, bytes(columns[b:c]), rows))
        position += size
    return found, position


def _rows(k: int, tokens: int, columns: memoryview, start: int) -> NDArray[Any]:
    """A block's columns as one row a token, so that each delta is one piece."""
    rows = np.empty(tokens, row_type(k))
    ids = np.frombuffer(columns, np.int32, tokens * (1 + (k if k > 1 else 0)), start)
    rows["token"] = ids[:tokens]
    if k:
        values = np.frombuffer(columns, np.float32, tokens * k, start + ids.nbytes)
        if k == 1:
            rows["logprob"] = values
        else:
            rows["top_ids"] = ids[tokens:].reshape(tokens, k)
            rows["top_logprobs"] = values.reshape(tokens, k)
    return rows


def _cutter(lengths: list[int], width: int) -> struct.Struct:
    """Cuts rows of ``width`` bytes into parts of as many as ``lengths`` says, all in C."""
    if lengths and lengths.count(lengths[0]) == len(lengths):
        return struct.Struct(f"{lengths[0] * width}s" * len(lengths))
    words = _words(width)
    if max(lengths, default=0) < len(words):
        return struct.Struct("".join([words[length] for length in lengths]))
    return struct.Struct("".join([f"{length * width}s" for length in lengths]))


@lru_cache(maxsize=16)
def _words(width: int) -> tuple[str, ...]:
    return tuple(f"{count * width}s" for count in range(257))


class PromptColumns(msgspec.Struct, gc=False):
    """Prompt logprobs of one input: f32 [P], ids i32 and logprobs f32 [P, k] as bytes."""

    handle: int
    k: int
    logprobs: bytes
    top_ids: bytes
    top_logprobs: bytes


def prompt_columns(blocks: Sequence[PromptBlock], columns: memoryview) -> list[PromptColumns]:
    """The prompt logprobs of a frame; ``columns`` starts behind the last delta block."""
    found: list[PromptColumns] = []
    position = 0
    for block in blocks:
        if block.length < 0 or not 0 <= block.k <= _LARGEST_K:
            raise ProtocolError("frame: a prompt block with impossible sizes")
        parts = []
        for size in (block.length * 4, block.length * block.k * 4, block.length * block.k * 4):
            parts.append(bytes(columns[position : position + size]))
            position += size
        if position > len(columns):
            raise ProtocolError("frame: prompt block beyond the end of the frame")
        found.append(PromptColumns(block.handle, block.k, *parts))
    return found
