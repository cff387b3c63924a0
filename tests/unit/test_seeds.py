"""Seeds are distinct, reproducible and touch no generator; group keys see prompt and weights."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_core.seeds import child_seed, group_hash, segment_seed

PROMPT = np.arange(128, dtype=np.int32).tobytes()
SEEDS = st.integers(-(2**63), 2**64 - 1)
SMALL = st.integers(0, 2**32 - 1)


def test_all_children_of_a_call_have_distinct_seeds() -> None:
    seeds = {child_seed(0, index, child) for index in range(300) for child in range(16)}
    assert len(seeds) == 300 * 16


def test_neighbouring_seeds_share_no_child() -> None:
    seeds = {child_seed(s, i, k) for s in range(-8, 9) for i in range(32) for k in range(8)}
    assert len(seeds) == 17 * 32 * 8


@settings(deadline=None)
@given(SEEDS, SMALL, SMALL, SMALL, SMALL)
def test_two_children_of_one_seed_never_collide(
    seed: int, index: int, child: int, other_index: int, other_child: int
) -> None:
    equal = child_seed(seed, index, child) == child_seed(seed, other_index, other_child)
    assert equal == ((index, child) == (other_index, other_child))
    assert 0 <= child_seed(seed, index, child) < 2**64


def test_a_seed_is_the_same_in_every_version() -> None:
    assert child_seed(42, 3, 1) == 15165661539858873672


def test_every_bit_of_a_child_seed_is_used() -> None:
    ones = np.zeros(64)
    for k in range(2000):
        ones += [child_seed(1, 0, k) >> bit & 1 for bit in range(64)]
    assert (abs(ones / 2000 - 0.5) < 0.06).all()


def test_a_seed_touches_no_global_generator() -> None:
    before, before_numpy = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    child_seed(1, 2, 3)
    group_hash(PROMPT, "b", None, None)
    assert random.getstate() == before
    assert np.random.get_state()[1].tolist() == before_numpy  # type: ignore[index]


def test_a_segment_at_offset_0_has_the_childs_seed_and_a_later_one_another() -> None:
    seeds = {segment_seed(7, offset) for offset in range(100)}
    assert segment_seed(7, 0) == 7
    assert len(seeds) == 100


def test_replicated_prompts_are_one_group() -> None:
    assert group_hash(PROMPT, "b", "a", None) == group_hash(memoryview(PROMPT), "b", "a", None)


def test_prompt_base_adapter_and_explicit_key_make_different_groups() -> None:
    keys = [
        group_hash(PROMPT, "b", None, None),
        group_hash(PROMPT[:-4], "b", None, None),
        group_hash(PROMPT, "c", None, None),
        group_hash(PROMPT, "b", "a", None),
        group_hash(PROMPT, "b", None, "mine"),
        group_hash(b"mine", "b", None, None),
        group_hash(PROMPT, "c", None, "mine"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)


def test_an_explicit_key_unites_different_prompts() -> None:
    assert group_hash(PROMPT, "b", None, "mine") == group_hash(b"", "b", None, "mine")
