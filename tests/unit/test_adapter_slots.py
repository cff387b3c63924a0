"""Slots of revisions: uses keep, the least recently used goes, and nobody is thrown out in use."""

import pytest

from sampler_api.errors import AdapterCapacity
from sampler_server.adapter_slots import AdapterSlots


def slots(capacity: int, **uses: int) -> AdapterSlots:
    made = AdapterSlots(capacity)
    for digest, number in uses.items():
        made.add(digest, number)
    return made


@pytest.mark.parametrize(
    ("table", "used_last", "goes"),
    [
        pytest.param(slots(2, a=0), None, None, id="nobody goes while there is room"),
        pytest.param(slots(2, a=0, b=0), None, "a", id="the oldest goes"),
        pytest.param(slots(2, a=0, b=0), "a", "b", id="what was used last stays"),
        pytest.param(slots(2, a=1, b=0), None, "b", id="what is in use stays"),
        pytest.param(slots(3, a=2, b=0, c=0), None, "b", id="of the unused the oldest goes"),
    ],
)
def test_room_is_made(table: AdapterSlots, used_last: str | None, goes: str | None) -> None:
    if used_last:
        assert table.hold(used_last)
        table.release(used_last)
    before = len(table)
    assert table.make_room() == goes
    assert len(table) == before - (goes is not None)
    assert goes is None or goes not in table


def test_when_all_are_in_use_there_is_no_room_and_nothing_changes() -> None:
    table = slots(2, a=1, b=3)
    with pytest.raises(AdapterCapacity, match="all 2 adapter slots of this replica are in use"):
        table.make_room()
    assert table.held() == ["a", "b"]
    table.release("a")
    assert table.make_room() == "a"


def test_uses_are_counted() -> None:
    table = slots(1, a=2)
    assert table.hold("a")
    assert not table.hold("b")
    for left in (2, 1, 0):
        table.release("a")
        assert table.uses("a") == left
    for digest in ("a", "b"):
        with pytest.raises(ValueError, match="released more often than it was acquired"):
            table.release(digest)


def test_a_revision_is_added_once_and_only_where_there_is_room() -> None:
    table = slots(2, a=0)
    with pytest.raises(ValueError, match="no slot"):
        table.add("a")
    table.add("b")
    with pytest.raises(ValueError, match="no slot"):
        table.add("c")


def test_without_slots_nothing_fits() -> None:
    with pytest.raises(AdapterCapacity, match="all 0"):
        slots(0).make_room()
