"""The codec takes any bytes: a frame, or ProtocolError; what was encoded comes back."""

import contextlib
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.raw_deltas import append

from sampler_api.codec import (
    DeltaWriter,
    client_columns,
    decode_client,
    decode_server,
    deltas,
    encode_frame,
    prompt_columns,
)
from sampler_api.columns import Chunks
from sampler_api.errors import ProtocolError
from sampler_api.frames import (
    Block,
    CancelId,
    Child,
    ClientFrame,
    ClientHello,
    Join,
    PromptBlock,
    RevisionRef,
    ServerFrame,
    Submit,
)


class Receiver:
    """What a handle stands for."""

    def __init__(self, k: int) -> None:
        self.columns = Chunks(k)

    @property
    def content(self) -> tuple[bytes, bytes, bytes]:
        ids, rows = self.columns.arrays()
        if rows is None:
            return ids.tobytes(), b"", b""
        return (
            ids.tobytes(),
            rows.values.tobytes(),
            rows.ids.tobytes() if rows.ids.ndim > 1 else b"",
        )


def read_client(data: bytes) -> None:
    header, columns = decode_client(data)
    if isinstance(header, ClientFrame):
        client_columns(header, columns)


def read_server(data: bytes) -> None:
    header, columns = decode_server(data)
    if isinstance(header, ServerFrame):
        found, consumed = deltas(header.blocks, columns)
        for block in found:
            assert sum(len(rows) for _, rows in block.parts()) == block.rows.nbytes
            block.ended()
        prompt_columns(header.prompts, columns[consumed:])


def survives(read: Any, data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(data)


numbers = st.integers(-(2**63), 2**64 - 1) | st.integers(-3, 40)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    survives(read_client, data)
    survives(read_server, data)


def framed(head: bytes, columns: bytes) -> bytes:
    return struct.pack("<I", len(head)) + head + columns


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_header_bytes_are_a_frame_or_a_protocol_error(head: bytes, columns: bytes) -> None:
    survives(read_client, framed(head, columns))
    survives(read_server, framed(head, columns))


CLIENT_FIELDS = ClientFrame.__struct_fields__ + ClientHello.__struct_fields__
SERVER_FIELDS = ServerFrame.__struct_fields__


@given(
    st.sampled_from(["c", "hello"]),
    st.dictionaries(st.sampled_from(CLIENT_FIELDS), plain, max_size=6),
    st.binary(max_size=64),
)
def test_a_client_header_with_any_values(tag: str, values: dict[str, Any], columns: bytes) -> None:
    head = msgspec.msgpack.encode({"type": tag, **values})
    survives(read_client, framed(head, columns))


@given(st.dictionaries(st.sampled_from(SERVER_FIELDS), plain, max_size=6), st.binary(max_size=64))
def test_a_server_header_with_any_values(values: dict[str, Any], columns: bytes) -> None:
    head = msgspec.msgpack.encode({"type": "s", **values})
    survives(read_server, framed(head, columns))


def test_deep_nesting_is_a_protocol_error() -> None:
    head = b"\x82\xa4type\xa1c\xa1x" + b"\x91" * 100_000
    with pytest.raises(ProtocolError):
        decode_client(framed(head, b""))


small = st.integers(-2, 6) | numbers
blocks = st.lists(st.builds(Block, small, small, small, small, small), max_size=3)


@given(blocks, st.lists(st.builds(PromptBlock, small, small, small), max_size=2), st.binary())
def test_blocks_of_any_sizes_over_any_columns(
    found: list[Block], prompts: list[PromptBlock], columns: bytes
) -> None:
    # Built from structs: sizes that a decoder of bytes would let through.
    try:
        _, consumed = deltas(found, memoryview(columns))
    except ProtocolError:
        return
    survives(lambda rest: prompt_columns(prompts, memoryview(rest)), columns[consumed:])


some_deltas = st.lists(
    st.tuples(
        st.sampled_from([3, 200, 300, 70_000]) | st.integers(0, 20),
        st.integers(0, 5),
        st.integers(0, 3),
        st.integers(0, 40) | st.just(300),
    ),
    max_size=12,
    unique_by=lambda delta: delta[0],
)


def column(length: int, salt: int) -> bytes:
    return (np.arange(length, dtype=np.int32) * 7 + salt).tobytes()


@given(some_deltas)
def test_deltas_come_back_as_they_were_written(written: list[tuple[int, int, int, int]]) -> None:
    writer = DeltaWriter()
    expected: dict[int, tuple[bytes, bytes, bytes]] = {}
    receivers: dict[int, Receiver] = {}
    for handle, flag, k, length in written:
        tokens = column(length, handle)
        values = column(length * k, handle + 1)
        ids = column(length * k, handle + 2) if k > 1 else b""
        writer.add(handle, flag, k, tokens, values, ids)
        expected[handle] = tokens, values, ids
        receivers[handle] = Receiver(k)
    scores = [column(size, 5) for size in (3, 6, 6)]
    writer.add_prompt(9, 2, *scores)
    found, prompts, columns = writer.finish()
    header, view = decode_server(encode_frame(ServerFrame(blocks=found, prompts=prompts), columns))
    assert isinstance(header, ServerFrame)
    ended, consumed = append(header.blocks, view, receivers)
    assert {handle: r.content for handle, r in receivers.items()} == expected
    assert sorted(ended) == sorted((h, f) for h, f, _, _ in written if f)
    (block,) = prompt_columns(header.prompts, view[consumed:])
    assert (block.handle, block.k) == (9, 2)
    assert [block.logprobs, block.top_ids, block.top_logprobs] == scores


@pytest.mark.parametrize(
    ("lengths", "flags", "widths"),
    [
        pytest.param([4, 4, 4], [0, 0, 0], (0, 0), id="alike, and all go on"),
        pytest.param([4, 4, 4], [0, 2, 0], (0, 1), id="alike, and one has ended"),
        pytest.param([4, 0, 4], [0, 0, 0], (1, 0), id="one has no token"),
        pytest.param([0, 0], [1, 1], (0, 1), id="ends alone"),
        pytest.param([300, 1], [0, 3], (2, 1), id="a long one that goes on, a short one that ends"),
    ],
)
def test_a_column_that_says_nothing_is_left_out(
    lengths: list[int], flags: list[int], widths: tuple[int, int]
) -> None:
    writer = DeltaWriter()
    for handle, (length, flag) in enumerate(zip(lengths, flags, strict=True)):
        writer.add(handle, flag, 1, column(length, handle), column(length, handle + 1))
    (block,), _, columns = writer.finish()
    assert (block.count_width, block.flag_width) == widths
    data = memoryview(b"".join(map(bytes, columns)))
    number, tokens = len(lengths), sum(lengths)
    assert len(data) == number * (1 + sum(widths)) + tokens * 8
    receivers = {handle: Receiver(1) for handle in range(number)}
    ended, _ = append([block], data, receivers)
    assert ended == [(h, f) for h, f in enumerate(flags) if f]
    assert [len(r.columns) for r in receivers.values()] == lengths


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(Block(1, 3, 7, 1, 0, 0), id="alike, and yet no multiple"),
        pytest.param(Block(1, 0, 4, 1, 0, 0), id="tokens of no delta"),
        pytest.param(Block(1, 2, 4, 1, 0, 2), id="flags of two bytes"),
        pytest.param(Block(1, 2, 4, 0, 1, 1), id="no handles"),
        pytest.param(Block(1, 2, 4, 1, -1, 1), id="a negative width"),
    ],
)
def test_a_block_of_impossible_widths_is_refused(block: Block) -> None:
    with pytest.raises(ProtocolError):
        deltas([block], memoryview(bytes(100)))


@given(some_deltas.filter(lambda ds: any(n for _, _, _, n in ds)), st.data())
def test_a_frame_that_is_cut_is_refused(
    written: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    writer = DeltaWriter()
    for handle, flag, k, length in written:
        ids = column(length * k, 2) if k > 1 else b""
        writer.add(handle, flag, k, column(length, 0), column(length * k, 1), ids)
    found, _, columns = writer.finish()
    whole = b"".join(bytes(part) for part in columns)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        deltas(found, memoryview(whole[:cut]))


u32 = st.integers(0, 2**32 - 1)
ids = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9)
children = st.lists(
    st.tuples(u32, u32, u32, st.none() | st.integers(0, 2**64 - 1), ids), min_size=1, max_size=3
)


def child_of(values: tuple[int, int, int, int | None, list[int]]) -> Child:
    handle, child, attempt, seed, output = values
    return Child(handle, child, attempt, seed, len(output))


@given(
    st.lists(ids, min_size=1, max_size=3),
    st.lists(children, max_size=3),
    st.lists(u32, max_size=5),
    st.none() | st.tuples(u32, u32),
    st.booleans(),
)
def test_a_client_frame_comes_back_as_it_was_written(
    prompts: list[list[int]],
    inputs: list[Any],
    acks: list[int],
    demand: tuple[int, int] | None,
    bye: bool,
) -> None:
    outputs = [output for some in inputs for *_, output in some if output]
    frame = ClientFrame(
        params=[msgspec.Raw(msgspec.msgpack.encode({"temperature": 0.5}))],
        revisions=[RevisionRef("sha256:b", "sha256:a", "name", "/path")],
        prompts=[len(prompt) for prompt in prompts],
        submits=[
            Submit(seq, seq % len(prompts), 0, 0, [child_of(c) for c in some])
            for seq, some in enumerate(inputs)
        ],
        joins=[Join(1, 2, 3, 4, 5)],
        cancels=[7],
        cancel_ids=[CancelId(8, 9, 10)],
        acks=len(acks),
        demand=demand,
        bye=bye,
    )
    columns = [np.array(column, np.int32).tobytes() for column in [*prompts, *outputs]]
    data = encode_frame(frame, [*columns, np.array(acks, np.uint32).tobytes()])
    header, view = decode_client(data)
    assert header == frame
    assert isinstance(header, ClientFrame)
    got_prompts, got_outputs, got_acks = client_columns(header, view)
    assert [bytes(p) for p in got_prompts] == columns[: len(prompts)]
    assert [bytes(o) for o in got_outputs] == columns[len(prompts) :]
    assert got_acks == acks
    with pytest.raises(ProtocolError):
        client_columns(header, memoryview(bytes(view) + b"\0\0\0\0"))


@pytest.mark.parametrize(("asked", "sent"), [(1, 0), (2, 1), (1, 2), (0, 1)])
def test_logprobs_of_another_k_than_asked_for_are_missing_and_harm_no_token(
    asked: int, sent: int
) -> None:
    receiver = Receiver(asked)
    for k in (asked, sent):
        writer = DeltaWriter()
        writer.add(0, 0, k, column(3, k), column(3 * k, 1), column(3 * k, 2) if k > 1 else b"")
        found, _, columns = writer.finish()
        append(found, memoryview(b"".join(map(bytes, columns))), {0: receiver})
    assert receiver.columns.token_ids.tobytes() == column(3, asked) + column(3, sent)
    if asked:
        with pytest.raises(ValueError, match="logprobs"):
            receiver.columns.arrays()
