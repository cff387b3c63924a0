"""When deltas go out: by size, at the end, by age; together."""

import pytest

from sampler_api.frames import LENGTH
from sampler_server.flush import FlushQueue
from sampler_server.settings import FlushSettings
from sampler_server.streams import Stream

SETTINGS = FlushSettings()


@pytest.fixture
def queue() -> FlushQueue:
    return FlushQueue(SETTINGS)


def stream(key: int = 1, interactive: bool = False) -> Stream:
    made = Stream(key, "c", key, 0, 3, 0, 0, 10, None, key, 0.0)
    made.is_interactive = interactive
    return made


def grow(queue: FlushQueue, one: Stream, tokens: int, now: float) -> bool:
    one.columns.tokens += bytes(4 * tokens)
    return queue.note(one, now)


def send(queue: FlushQueue, now: float) -> list[Stream]:
    taken = queue.take(now)
    for one in taken:
        one.sent = len(one.columns)
    return taken


def test_nothing_is_due_without_news(queue: FlushQueue) -> None:
    assert queue.due_at() is None
    assert queue.take(100.0) == []


def test_few_tokens_wait_a_quarter_of_a_second(queue: FlushQueue) -> None:
    one = stream()
    assert grow(queue, one, 3, 10.0)
    assert queue.due_at() == pytest.approx(10.25)
    assert send(queue, 10.0) == []
    assert send(queue, 10.25) == [one]
    assert queue.due_at() is None


def test_a_reader_waits_25_milliseconds(queue: FlushQueue) -> None:
    grow(queue, stream(interactive=True), 1, 10.0)
    assert queue.due_at() == pytest.approx(10.025)


def test_a_batch_of_tokens_waits_one_tick(queue: FlushQueue) -> None:
    one = stream()
    grow(queue, one, 31, 10.0)
    assert grow(queue, one, 1, 10.1)
    assert queue.due_at() == pytest.approx(10.105)
    assert send(queue, 10.105) == [one]


def test_an_end_waits_one_tick(queue: FlushQueue) -> None:
    one = stream()
    one.flag = LENGTH
    assert queue.note(one, 10.0)
    assert queue.due_at() == pytest.approx(10.005)


def test_a_stream_is_sent_once_however_often_it_moves(queue: FlushQueue) -> None:
    one = stream()
    for step in range(100):
        grow(queue, one, 1, 10.0 + step / 1000)
    one.flag = LENGTH
    queue.note(one, 10.2)
    assert send(queue, 10.3) == [one]
    assert send(queue, 11.0) == []


def test_waiting_begins_anew_behind_what_was_sent(queue: FlushQueue) -> None:
    one = stream()
    grow(queue, one, 32, 10.0)
    send(queue, 10.005)
    grow(queue, one, 1, 10.1)
    assert queue.due_at() == pytest.approx(10.35)


def test_what_is_nearly_due_joins_a_frame(queue: FlushQueue) -> None:
    first, second, third = stream(1), stream(2), stream(3)
    grow(queue, first, 1, 10.0)
    grow(queue, second, 1, 10.015)
    grow(queue, third, 1, 10.1)
    assert send(queue, 10.25) == [first, second]
    assert queue.due_at() == pytest.approx(10.35)


def test_what_did_not_fit_is_first_in_the_next_frame(queue: FlushQueue) -> None:
    first, second, third = stream(1), stream(2), stream(3)
    for one in (first, second):
        grow(queue, one, 40, 10.0)
    taken = queue.take(10.005)
    queue.put_back(taken[1:], 10.005)
    grow(queue, third, 40, 10.005)
    assert queue.due_at() == pytest.approx(10.005)
    assert queue.take(10.005) == [second, third]


def test_only_the_first_news_asks_for_an_earlier_frame(queue: FlushQueue) -> None:
    assert grow(queue, stream(1), 1, 10.0)
    assert not grow(queue, stream(2), 1, 10.0)
    assert grow(queue, stream(3), 32, 10.0)
    assert not grow(queue, stream(4), 32, 10.0)
