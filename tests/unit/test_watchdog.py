"""What counts as a stalled engine."""

import pytest

from sampler_server.watchdog import StepWatch


def looks(watch: StepWatch, start: float, seconds: float, steps: int, **state: bool) -> list[bool]:
    """Readings once a second while the counter stands."""
    count = int(seconds)
    return [watch.look(start + i, steps, **{"is_busy": True, **state}) for i in range(count)]


def test_a_standing_counter_is_a_stall_after_ten_seconds() -> None:
    found = looks(StepWatch(0.0), 0.0, 15, 5)
    assert found.index(True) == 11


def test_an_idle_engine_never_stalls() -> None:
    assert not any(looks(StepWatch(0.0), 0.0, 100, 5, is_busy=False))


def test_a_declared_operation_suspends_the_watch() -> None:
    watch = StepWatch(0.0)
    assert not any(looks(watch, 0.0, 100, 5, is_suspended=True))
    assert not any(looks(watch, 100.0, 10, 5))
    assert any(looks(watch, 110.0, 5, 5))


@pytest.mark.parametrize(
    ("stall_seconds", "limit"),
    [pytest.param(3.0, 10.0, id="at least ten seconds"), pytest.param(60.0, 60.0, id="or as set")],
)
def test_the_limit_is(stall_seconds: float, limit: float) -> None:
    assert StepWatch(stall_seconds).limit == limit


def test_slow_steps_raise_the_limit() -> None:
    watch = StepWatch(0.0)
    for step in range(4):
        assert not any(looks(watch, step * 8.0, 8, step))
    assert watch.slowest == pytest.approx(8.0)
    assert watch.limit == pytest.approx(40.0)
    assert not any(looks(watch, 32.0, 38, 4))


def test_waiting_for_the_first_request_is_no_slow_step() -> None:
    watch = StepWatch(0.0)
    looks(watch, 0.0, 50, 7, is_busy=False)
    watch.look(50.0, 8, is_busy=True)
    assert watch.slowest == 0.0


def test_a_pause_of_this_process_is_not_held_against_the_engine() -> None:
    watch = StepWatch(0.0)
    looks(watch, 0.0, 5, 1)
    assert not watch.look(95.0, 1, is_busy=True)
    assert watch.stalled == pytest.approx(6.0)
