"""How adapters share steps where the zero adapter has one of vLLM's slots."""

import pytest

from sampler_server.engines.vllm.gate import AdapterGate


class Flights:
    """Sequences that have begun, in their order."""

    def __init__(self, limit: int | None) -> None:
        self.gate = AdapterGate(limit)
        self.begun: list[str] = []

    def enter(self, name: str) -> None:
        """``name``: the adapter, and a digit that tells sequences of it apart."""
        self.gate.enter(name[0], lambda: self.begun.append(name))


def test_as_many_adapters_as_there_is_room_for_begin_at_once() -> None:
    flights = Flights(2)
    for name in ("a1", "b1", "a2", "c1"):
        flights.enter(name)
    assert flights.begun == ["a1", "b1", "a2"]
    assert flights.gate.waiting == 1


def test_one_waits_until_the_last_sequence_of_another_has_left() -> None:
    flights = Flights(1)
    for name in ("a1", "a2", "b1"):
        flights.enter(name)
    flights.gate.leave("a")
    assert flights.begun == ["a1", "a2"]
    flights.gate.leave("a")
    assert flights.begun == ["a1", "a2", "b1"]


def test_a_busy_adapter_does_not_overtake_one_that_waits() -> None:
    flights = Flights(1)
    for name in ("a1", "b1", "a2"):
        flights.enter(name)
    assert flights.begun == ["a1"]
    flights.gate.leave("a")
    assert flights.begun == ["a1", "b1"]
    flights.gate.leave("b")
    assert flights.begun == ["a1", "b1", "a2"]


def test_without_a_limit_nothing_waits() -> None:
    flights = Flights(None)
    for name in "abcdefgh":
        flights.enter(name)
    assert flights.begun == list("abcdefgh")


def test_what_is_withdrawn_does_not_begin_and_holds_nobody_up() -> None:
    flights = Flights(1)
    flights.enter("a1")
    begun: list[str] = []

    def begin() -> None:
        begun.append("b1")

    flights.gate.enter("b", begin)
    flights.enter("a2")
    assert flights.gate.withdraw(begin)
    assert flights.begun == ["a1", "a2"]
    assert begun == []
    assert not flights.gate.withdraw(begin)


def test_flights_are_counted_by_adapter() -> None:
    flights = Flights(None)
    flights.enter("a1")
    flights.enter("a2")
    assert [flights.gate.flights(name) for name in "ab"] == [2, 0]
    flights.gate.leave("a")
    flights.gate.leave("a")
    assert flights.gate.flights("a") == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_never_more_adapters_than_the_limit_are_in_flight(limit: int) -> None:
    flights = Flights(limit)
    for name in ("a", "b", "c", "d", "e", "a", "c"):
        flights.enter(name)
    while flights.gate.waiting:
        in_flight = [name for name in "abcde" if flights.gate.flights(name)]
        assert 0 < len(in_flight) <= limit
        flights.gate.leave(in_flight[0])
    assert sorted(flights.begun) == ["a", "a", "b", "c", "c", "d", "e"]
