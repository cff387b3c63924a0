"""The queue of passes: each key once, one worker each, and again later what failed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from tests.virtual_time import now, run

from sampler_operator.errors import Unavailable
from sampler_operator.names import Key
from sampler_operator.workqueue import WorkQueue

A, B, C = Key("rl", "a"), Key("rl", "b"), Key("rl", "c")


class Passes:
    """Work that takes ``seconds`` and does what ``outcomes`` say, in order; then nothing more."""

    def __init__(self, seconds: float = 0.0, outcomes: tuple[object, ...] = ()) -> None:
        self.seconds = seconds
        self.outcomes = list(outcomes)
        self.begun: list[tuple[float, str]] = []
        self.ended: list[str] = []
        self.running: list[str] = []
        self.most = 0

    async def __call__(self, key: Key) -> float | None:
        assert key.name not in self.running, "two passes over one key"
        self.begun.append((now(), key.name))
        self.running.append(key.name)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running.remove(key.name)
        self.ended.append(key.name)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is None or isinstance(outcome, float)
        return outcome

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.begun]

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.begun]


@asynccontextmanager
async def working(queue: WorkQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


Scenario = Callable[[WorkQueue], Awaitable[None]]


def play(passes: Passes, scenario: Scenario, workers: int = 16) -> None:
    """The scenario, and then as much time as is needed for all that follows from it."""

    async def main() -> None:
        queue = WorkQueue(passes, workers)
        async with working(queue):
            await scenario(queue)
            await asyncio.sleep(3600)
            assert queue.is_idle
            assert len(queue) == 0

    run(main())


def test_a_key_that_is_asked_for_often_gets_one_pass() -> None:
    passes = Passes()

    async def scenario(queue: WorkQueue) -> None:
        for _ in range(5):
            queue.add(A)
        assert len(queue) == 1

    play(passes, scenario)
    assert passes.names == ["a"]


def test_keys_are_served_in_the_order_of_asking() -> None:
    passes = Passes()

    async def scenario(queue: WorkQueue) -> None:
        for key in (B, A, C, A):
            queue.add(key)

    play(passes, scenario, workers=1)
    assert passes.names == ["b", "a", "c"]


def test_news_during_a_pass_lead_to_one_more_pass() -> None:
    passes = Passes(seconds=1)

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        for _ in range(3):
            queue.add(A)

    play(passes, scenario)
    assert passes.times == [0, 1]
    assert passes.most == 1


def test_different_keys_are_served_side_by_side() -> None:
    passes = Passes(seconds=1)

    async def scenario(queue: WorkQueue) -> None:
        for key in (A, B, C):
            queue.add(key)

    play(passes, scenario)
    assert passes.times == [0, 0, 0]


def test_there_are_no_more_passes_at_once_than_workers() -> None:
    passes = Passes(seconds=1)

    async def scenario(queue: WorkQueue) -> None:
        for key in (A, B, C):
            queue.add(key)

    play(passes, scenario, workers=2)
    assert (passes.times, passes.most) == ([0, 0, 1], 2)


def test_a_key_that_is_always_asked_for_keeps_no_other_waiting() -> None:
    passes = Passes(seconds=1)

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        queue.add(A)
        queue.add(B)

    play(passes, scenario, workers=1)
    assert passes.names == ["a", "b", "a"]


# Later


def test_a_pass_says_when_to_look_again() -> None:
    passes = Passes(outcomes=(2.0, 10.0, None))

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)

    play(passes, scenario)
    assert passes.times == [0, 2, 12]


def test_an_earlier_time_counts_and_a_later_one_does_not() -> None:
    passes = Passes()

    async def scenario(queue: WorkQueue) -> None:
        queue.add_later(A, 10)
        queue.add_later(A, 5)
        queue.add_later(A, 20)

    play(passes, scenario)
    assert passes.times == [5]


def test_who_is_asked_for_need_not_be_looked_at_later() -> None:
    passes = Passes()

    async def scenario(queue: WorkQueue) -> None:
        queue.add_later(A, 10)
        queue.add(A)
        queue.add_later(A, 10)

    play(passes, scenario)
    assert passes.times == [0]


def test_something_later_is_not_idleness_of_others() -> None:
    async def main() -> None:
        queue = WorkQueue(Passes())
        queue.add_later(A, 10)
        assert queue.is_idle
        queue.add(B)
        assert not queue.is_idle

    run(main())


# Failures


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_what_fails_is_repeated_after_doubled_delays_up_to_a_minute() -> None:
    passes = Passes(outcomes=(Unavailable("away"),) * 9)

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)

    play(passes, scenario)
    assert gaps(passes.times) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_success_makes_the_next_failure_a_first_one() -> None:
    away = Unavailable("away")
    passes = Passes(outcomes=(away, away, 100.0, away, None))

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)

    play(passes, scenario)
    assert gaps(passes.times) == [0.5, 1, 100, 0.5]


def test_news_do_not_wait_for_the_delay() -> None:
    passes = Passes(outcomes=(Unavailable("away"),) * 3)

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(1.0)  # failed at 0 and 0.5; due at 1.5
        queue.add(A)

    play(passes, scenario)
    assert passes.times == [0, 0.5, 1, 1.5]


def test_a_storm_of_news_makes_nobody_wait_longer() -> None:
    passes = Passes(outcomes=(Unavailable("away"),) * 7)

    async def scenario(queue: WorkQueue) -> None:
        for _ in range(6):
            queue.add(A)
            await asyncio.sleep(0.0625)

    play(passes, scenario)
    # After the seventh, which was the repetition, comes the second delay.
    assert gaps(passes.times)[-2:] == [0.1875, 1]


def test_a_failing_key_does_not_hold_up_another() -> None:
    passes = Passes(outcomes=(ValueError("bug"), None))

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)

    play(passes, scenario, workers=1)
    assert passes.begun == [(0, "a"), (0, "b"), (0.5, "a")]


def test_an_expected_error_is_one_line_and_another_has_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    passes = Passes(outcomes=(Unavailable("API server is away"), ValueError("bug")))

    async def scenario(queue: WorkQueue) -> None:
        queue.add(A)

    play(passes, scenario)
    expected, unexpected = caplog.records
    assert (expected.levelno, expected.exc_info) == (logging.WARNING, None)
    assert expected.getMessage() == "rl/a: API server is away"
    assert unexpected.levelno == logging.ERROR
    assert unexpected.exc_info is not None


def test_each_pass_is_told_with_its_duration_and_error() -> None:
    told: list[tuple[float, BaseException | None]] = []
    error = Unavailable("away")
    passes = Passes(seconds=0.25, outcomes=(error, None))

    async def main() -> None:
        queue = WorkQueue(passes, observe=lambda seconds, error: told.append((seconds, error)))
        async with working(queue):
            queue.add(A)
            await asyncio.sleep(10)

    run(main())
    assert told == [(0.25, error), (0.25, None)]


# The end


def test_the_end_of_the_queue_ends_passes_and_timers() -> None:
    passes = Passes(seconds=10)

    async def main() -> None:
        queue = WorkQueue(passes)
        async with working(queue):
            queue.add(A)
            queue.add_later(B, 20)
            await asyncio.sleep(1)
        await asyncio.sleep(100)

    run(main())
    assert passes.names == ["a"]
    assert passes.ended == []
    assert passes.running == []


def test_what_was_asked_before_the_start_is_done_after_it() -> None:
    passes = Passes()

    async def main() -> None:
        queue = WorkQueue(passes)
        queue.add(A)
        async with working(queue):
            await asyncio.sleep(1)

    run(main())
    assert passes.names == ["a"]
