"""Lanes hold what a plain loop would have appended, whatever the frames are like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.raw_deltas import append

from sampler_api.codec import Deltas, DeltaWriter, deltas
from sampler_api.columns import Chunks
from sampler_api.frames import Block
from sampler_client.lanes import LANE_BYTES, Lanes

ROOM = LANE_BYTES // 8
"""Tokens with logprobs that a lane takes."""


class Receiver:
    """What a handle stands for."""

    def __init__(self, k: int) -> None:
        self.columns = Chunks(k)

    @property
    def rows(self) -> bytes:
        return b"".join(self.columns.parts)


class World:
    """Lanes, and beside them receivers to which everything is appended one by one."""

    def __init__(self) -> None:
        self.receivers: dict[int, Receiver] = {}
        self.lanes = Lanes(self.receivers)
        self.plain: dict[int, Receiver] = {}
        self.ended: list[tuple[Receiver, Receiver]] = []
        self.made = 0

    def open(self, handle: int, k: int, tick: int = 0) -> None:
        self.close(handle)
        self.receivers[handle], self.plain[handle] = Receiver(k), Receiver(k)
        self.lanes.open(handle, tick)

    def close(self, handle: int) -> None:
        if handle in self.receivers:
            receiver = self.receivers.pop(handle)
            self.lanes.close(handle, receiver.columns)
            self.ended.append((receiver, self.plain.pop(handle)))

    def frame(self, lengths: dict[int, int], k: int, tick: int = 0) -> None:
        """A frame of new tokens for handles, known or not."""
        writer = DeltaWriter()
        for handle, length in lengths.items():
            tokens = np.arange(self.made, self.made + length, dtype=np.int32)
            self.made += length
            values = np.repeat(tokens, k).astype(np.float32).tobytes()
            ids = np.repeat(tokens, k).tobytes() if k > 1 else b""
            writer.add(handle, 0, k, tokens.tobytes(), values, ids)
        blocks, _, columns = writer.finish()
        self.take(blocks, memoryview(b"".join(map(bytes, columns))), tick)

    def take(self, blocks: list[Block], data: memoryview, tick: int = 0) -> None:
        others = {handle: Receiver(0) for block in deltas(blocks, data)[0] for handle in _of(block)}
        append(blocks, data, others | self.plain)
        for block in deltas(blocks, data)[0]:
            self.lanes.take(block, tick)

    def check(self) -> None:
        for handle, receiver in self.receivers.items():
            expected = len(self.plain[handle].columns)
            assert len(receiver.columns) + self.lanes.tokens(handle) == expected
        for handle in list(self.receivers):
            self.close(handle)
        for receiver, plain in self.ended:
            assert receiver.rows == plain.rows
            assert receiver.columns.is_short == plain.columns.is_short


def _of(block: Deltas) -> list[int]:
    handles: list[int] = block.handles.tolist()
    return handles


handles = st.integers(0, 30)
opened = st.tuples(st.just("open"), handles, st.sampled_from([0, 1, 1, 1, 2]))
closed = st.tuples(st.just("close"), handles)
# Engines that decode in step, with some that have just begun or ended.
in_step = st.builds(
    lambda first, number, length, odd: dict.fromkeys(range(first, first + number), length) | odd,
    st.integers(0, 12),
    st.integers(1, 25),
    st.sampled_from([0, 1, 2, 32, 100, ROOM, ROOM + 1]),
    st.dictionaries(handles, st.integers(0, 40), max_size=3),
)
of_any_length = st.dictionaries(handles, st.integers(0, 9), min_size=1, max_size=12)
frame = st.tuples(st.just("frame"), in_step | of_any_length, st.sampled_from([0, 1, 1, 1, 2]))


@given(st.sampled_from([0, 1]), st.lists(opened | closed | frame, max_size=40))
def test_every_receiver_has_what_a_plain_loop_would_have_appended(
    k: int, steps: list[tuple[str, ...]]
) -> None:
    world = World()
    for handle in range(25):
        world.open(handle, k)
    for step, *words in steps:
        getattr(world, step)(*words)
    world.check()


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([32] * 64, id="all alike"),
        pytest.param([31] * 20 + [32] * 44, id="two lengths"),
        pytest.param([0] * 32 + [5] * 32, id="half of them bring nothing"),
        pytest.param([ROOM] * 64, id="a whole lane each"),
        pytest.param([ROOM + 1] * 64, id="more than a lane each"),
        pytest.param(list(range(1, 65)), id="each of another length"),
        pytest.param([3], id="one alone"),
    ],
)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_lanes_that_fill_lose_nothing(lengths: list[int], k: int) -> None:
    world = World()
    for handle in range(len(lengths)):
        world.open(handle, k)
    for _ in range(1 + 3 * ROOM // max(1, *lengths)):
        world.frame(dict(enumerate(lengths)), k)
    world.check()


def test_rows_move_without_a_loop_where_deltas_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for handle in range(64):
        world.open(handle, 1)

    def loop(*_: object) -> None:
        raise AssertionError("a loop")

    monkeypatch.setattr(Lanes, "_take_each", loop)
    world.frame(dict.fromkeys(range(64), 32), 1)
    world.frame({handle: 31 + handle % 2 for handle in range(64)}, 1)
    world.check()


def test_tokens_stay_in_order_however_their_frames_came() -> None:
    world = World()
    for handle in range(16):
        world.open(handle, 1)
    for _ in range(3):
        world.frame(dict.fromkeys(range(16), 4), 1)
        world.frame({3: 2, 7: 1}, 1)
    world.check()


@pytest.mark.parametrize("other", [20, 10_000], ids=["closed", "never opened"])
def test_what_is_for_nobody_is_dropped_from_among_the_others(other: int) -> None:
    world = World()
    for handle in (*range(16), 20):
        world.open(handle, 1)
    world.close(20)
    world.frame(dict.fromkeys([*range(16), other], 4), 1)
    world.check()


def test_two_deltas_of_one_handle_in_one_block_are_both_kept() -> None:
    world = World()
    for handle in range(16):
        world.open(handle, 0)
    named = np.array([*range(15), 3], np.uint8)
    tokens = np.arange(32, dtype=np.int32)
    world.take([Block(0, 16, 32, 1, 0, 0)], memoryview(named.tobytes() + tokens.tobytes()))
    assert world.lanes.tokens(3) + len(world.receivers[3].columns) == 4
    world.check()


def test_a_handle_that_is_given_again_begins_with_an_empty_lane() -> None:
    world = World()
    for handle in range(16):
        world.open(handle, 1)
    world.frame(dict.fromkeys(range(16), 4), 1)
    world.open(5, 0)
    assert world.lanes.tokens(5) == 0
    world.frame({5: 2}, 0)
    world.check()


@pytest.mark.parametrize("number", [2, 64], ids=["in a loop", "all at once"])
def test_only_tokens_and_beats_are_signs_of_life(number: int) -> None:
    world = World()
    for handle in range(number):
        world.open(handle, 1, tick=1)
    assert world.lanes.stale(1) == []
    assert world.lanes.stale(2) == list(range(number))
    world.frame({0: 0, 1: 3}, 1, tick=5)
    world.frame(dict.fromkeys(range(number), 0), 1, tick=6)
    assert world.lanes.stale(5) == [0, *range(2, number)]
    world.lanes.see([0, 10_000, -1], 7)
    assert world.lanes.stale(7) == list(range(1, number))
    world.frame(dict.fromkeys(range(number), 2), 1, tick=8)
    assert world.lanes.stale(8) == []


def test_a_sequence_takes_its_last_sign_of_life_along() -> None:
    world = World()
    for handle in range(16):
        world.open(handle, 1, tick=1)
    world.frame(dict.fromkeys(range(12), 2), 1, tick=9)
    seen = [world.lanes.close(h, world.receivers[h].columns) for h in (0, 15)]
    assert seen == [9, 1]
    assert 0 not in world.lanes.stale(100)
