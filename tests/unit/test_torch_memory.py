"""Rows of keys and values: within the budget, dense, and never mixed up."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from sampler_server.engines.torch.memory import KVMemory, KVRow, SlabStore  # noqa: E402
from sampler_server.engines.torch.ranks.moves import NotedStore, Replica  # noqa: E402
from sampler_server.engines.torch.ranks.orders import Move  # noqa: E402
from sampler_server.engines.torch.shape import KVShape  # noqa: E402

SHAPE = KVShape(layers=1, heads=1, dim=1, dtype=torch.float32, device=torch.device("cpu"))


def fill(row: KVRow, mark: float, start: int, end: int) -> None:
    row.slab.data[:, :, row.index, :, start:end] = mark
    row.length = end


def marks(row: KVRow) -> set[float]:
    return set(row.slab.data[:, :, row.index, :, : row.length].flatten().tolist())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11), st.integers(1, 300)), max_size=60))
def test_rows_keep_their_content_and_the_budget_holds(steps: list[tuple[int, int, int]]) -> None:
    memory = KVMemory(SHAPE, budget=1000, slab_tokens=256, row_limit=600)
    rows: dict[float, KVRow] = {}
    mark = 0.0
    for action, which, size in steps:
        held = list(rows)
        if action == 0 or not held:
            placed = memory.place(size)
            if placed is not None:
                mark += 1
                rows[mark] = placed
                fill(placed, mark, 0, size)
        elif action == 1:
            key = held[which % len(held)]
            row = rows[key]
            longer = min(600, row.length + size)
            if memory.grow(row, longer):
                fill(row, key, row.length, longer)
        else:
            memory.free(rows.pop(held[which % len(held)]))
        assert memory.allocated <= 1000
        assert all(marks(row) <= {key} for key, row in rows.items())
        owned = [row for slab in memory.slabs() for row in slab.owners]
        assert {id(row) for row in owned} == {id(row) for row in rows.values()}
        for slab in memory.slabs():
            assert slab.owners
            assert [row.index for row in slab.owners] == list(range(len(slab.owners)))
            assert all(row.slab is slab for row in slab.owners)
        for capacity in {slab.capacity for slab in memory.slabs()}:
            partly = [s for s in memory.slabs() if s.capacity == capacity and s.has_room]
            assert len(partly) <= 1
    for row in rows.values():
        memory.free(row)
    assert (memory.allocated, memory.used) == (0, 0)


def test_one_sequence_may_use_the_whole_budget() -> None:
    memory = KVMemory(SHAPE, budget=1000, slab_tokens=256, row_limit=5000)
    row = memory.place(1000)
    assert row is not None
    assert memory.place(1) is None
    memory.free(row)
    assert memory.place(1) is not None
    assert memory.place(1001) is None


def test_new_memory_is_zero_and_wiped_memory_is() -> None:
    memory = KVMemory(SHAPE, budget=512, slab_tokens=256, row_limit=512)
    row = memory.place(10)
    assert row is not None
    fill(row, float("nan"), 0, 10)
    memory.wipe(row)
    assert bool((row.slab.data == 0).all())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11), st.integers(1, 300)), max_size=60))
def test_another_rank_that_repeats_the_moves_has_the_same_rows(
    steps: list[tuple[int, int, int]],
) -> None:
    moves: list[Move] = []

    def noted(shape: KVShape, budget: int, slab_tokens: int) -> SlabStore:
        return NotedStore(shape, budget, slab_tokens, moves)

    memory = KVMemory(SHAPE, 1000, 256, 600, noted)
    other = Replica(SHAPE, 1000, 256)
    rows: list[KVRow] = []
    mark = 0.0
    for action, which, size in steps:
        if action == 0 or not rows:
            placed = memory.place(size)
            rows += [] if placed is None else [placed]
        elif action == 1:
            row = rows[which % len(rows)]
            longer = min(600, row.length + size)
            if memory.grow(row, longer):
                row.length = longer
        elif action == 2:
            memory.free(rows.pop(which % len(rows)))
        else:
            memory.wipe(rows[which % len(rows)])
        for move in moves:
            other.repeat(move)
        moves.clear()
        # A step: both write what is new.
        for row in rows:
            mark += 1
            for slab in (row.slab, other[row.slab.number]):
                slab.data[:, :, row.index, :, : row.length] = mark
        assert len(other) == len(list(memory.slabs()))
        for slab in memory.slabs():
            assert torch.equal(slab.data, other[slab.number].data)
