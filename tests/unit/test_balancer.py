"""Which replica takes a group: stable order, spill only on a real excess, nobody idles."""

import random
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from sampler_client.balancer import Order, pick, salt_of

_DRAWS = random.Random(1)
KEYS = [_DRAWS.getrandbits(64) for _ in range(2000)]


@dataclass
class Place:
    salt: int
    load_tokens: int = 0
    room: int = 1 << 30
    taken: int = 0

    def has_room(self, sequences: int, tokens: int) -> bool:
        return self.taken + sequences <= self.room


def places(number: int) -> list[Place]:
    return [Place(salt_of(f"http://10.0.0.{i}:8000")) for i in range(number)]


def choose(key: int, of: list[Place], sequences: int = 1, tokens: int = 100) -> int | None:
    order = Order(p.salt for p in of)
    return pick(key, of, order, sequences, tokens, sum(p.load_tokens for p in of))


@pytest.mark.parametrize("number", [1, 2, 5, 23, 24, 25, 64, 256])
def test_an_order_names_every_replica_once(number: int) -> None:
    order = Order(p.salt for p in places(number))
    for key in KEYS[:20]:
        assert sorted(order.of(key)) == list(range(number))


def test_small_and_large_fleets_order_alike() -> None:
    large = places(40)
    small = large[:10]
    for key in KEYS[:200]:
        of_large = [i for i in Order(p.salt for p in large).of(key) if i < 10]
        assert of_large == list(Order(p.salt for p in small).of(key))


@pytest.mark.parametrize("number", [4, 40])
def test_a_key_goes_to_the_same_replica_each_time(number: int) -> None:
    fleet = places(number)
    assert [choose(k, fleet) for k in KEYS[:50]] == [choose(k, fleet) for k in KEYS[:50]]


@pytest.mark.parametrize("number", [4, 40])
def test_a_replica_that_leaves_moves_only_its_own_keys(number: int) -> None:
    fleet = places(number)
    before = [fleet[choose(key, fleet) or 0].salt for key in KEYS]
    gone, rest = fleet[0], fleet[1:]
    after = [rest[choose(key, rest) or 0].salt for key in KEYS]
    for old, new in zip(before, after, strict=True):
        assert new == old or old == gone.salt


@pytest.mark.parametrize("number", [3, 8, 32])
def test_keys_spread_evenly(number: int) -> None:
    counts = Counter(choose(key, places(number)) for key in KEYS)
    mean = len(KEYS) / number
    assert min(counts[i] for i in range(number)) > mean - 4 * mean**0.5
    assert max(counts.values()) < mean + 4 * mean**0.5


SPILLS = [
    pytest.param(1000, [1000, 1000, 1000], 0, id="equal loads stay"),
    pytest.param(4000, [0, 0, 0], 0, id="a large relative excess of few tokens stays"),
    pytest.param(110_000, [100_000] * 3, 0, id="a large absolute excess of little ratio stays"),
    pytest.param(200_000, [100_000] * 3, 1, id="an excess in both goes to the second choice"),
    pytest.param(9000, [0, 0, 0], 1, id="a lone burst goes to the second choice"),
]


@pytest.mark.parametrize(("first_load", "others", "rank"), SPILLS)
def test_a_group_leaves_its_first_choice_when(
    first_load: int, others: list[int], rank: int
) -> None:
    fleet = places(4)
    for key in KEYS[:20]:
        order = list(Order(p.salt for p in fleet).of(key))
        for place, load in zip(order, [first_load, *others], strict=True):
            fleet[place].load_tokens = load
        assert choose(key, fleet) == order[rank]


def test_without_room_at_the_first_choice_the_next_takes_it() -> None:
    fleet = places(4)
    order = list(Order(p.salt for p in fleet).of(7))
    fleet[order[0]].room = 0
    assert choose(7, fleet) == order[1]


def test_an_overloaded_replica_with_room_is_better_than_waiting() -> None:
    fleet = places(3)
    order = list(Order(p.salt for p in fleet).of(7))
    fleet[order[0]].load_tokens = 1 << 20
    fleet[order[1]].room = fleet[order[2]].room = 0
    assert choose(7, fleet) == order[0]


def test_without_room_anywhere_nobody_takes_it() -> None:
    fleet = places(3)
    for place in fleet:
        place.room = 0
    assert choose(7, fleet) is None
    assert choose(7, []) is None
    assert choose(7, fleet[:1]) is None


def test_no_replica_idles_while_work_waits() -> None:
    fleet = places(16)
    for place in fleet:
        place.room = 4
    for key in KEYS[:64]:
        chosen = choose(key, fleet)
        assert chosen is not None
        fleet[chosen].taken += 1
        fleet[chosen].load_tokens += 100
    assert [place.taken for place in fleet] == [4] * 16
    assert choose(KEYS[64], fleet) is None


def test_the_cost_of_a_pick_among_256_replicas_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = places(256)
    order = Order(p.salt for p in fleet)
    start = time.perf_counter()
    for key in KEYS[:500]:
        chosen = pick(key, fleet, order, 1, 100, 0)
        assert chosen is not None
    cost = (time.perf_counter() - start) / 500
    with capsys.disabled():
        print(f"\n  a pick among 256 replicas: {cost * 1e6:.1f} us")
