"""How long a replica that cannot serve anybody is left alone."""

from sampler_client.backoff import Backoff


def rests(number: int, *, shortest: int = 1, longest: int = 10) -> list[int]:
    """Lengths of so many rests in a row, in ticks."""
    backoff, now, lengths = Backoff(), 0, []
    for _ in range(number):
        begun = now
        assert backoff.fail(now, shortest, longest)
        while not backoff.has_rested(now):
            now += 1
        lengths.append(now - begun)
    return lengths


def test_rests_double_up_to_the_longest() -> None:
    assert rests(6) == [1, 2, 4, 8, 10, 10]
    assert rests(3, shortest=10, longest=160) == [10, 20, 40]
    assert rests(40, longest=3)[-1] == 3


def test_what_fails_during_a_rest_adds_nothing() -> None:
    backoff = Backoff()
    assert backoff.fail(0, 1, 10)
    assert not backoff.fail(0, 1, 10)
    assert backoff.has_rested(1)
    assert backoff.fail(1, 1, 10)
    assert not backoff.has_rested(2)
    assert backoff.has_rested(3)


def test_the_end_of_a_rest_is_told_once() -> None:
    backoff = Backoff()
    assert not backoff.has_rested(5)
    backoff.fail(5, 1, 10)
    assert backoff.is_resting
    assert backoff.has_rested(6)
    assert not backoff.is_resting
    assert not backoff.has_rested(7)


def test_a_success_makes_the_next_rest_short() -> None:
    backoff = Backoff()
    for now in (0, 10, 20):
        backoff.fail(now, 1, 100)
        backoff.has_rested(now + 4)
    backoff.succeed()
    backoff.fail(30, 1, 100)
    assert backoff.has_rested(31)
