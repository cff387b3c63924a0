"""Streams of responses over a backend that does nothing by itself: pulling, leaving, failing."""

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
from tests.fake_backend import RecordingBackend

from sampler_api.errors import EngineFailed, InvalidRequest
from sampler_api.frames import ABORT
from sampler_core.async_streaming import AsyncSampleStream
from sampler_core.base import SamplerBase

INPUT: dict[str, Any] = {"input_ids": [5]}
REFUSED: dict[str, Any] = {"input_ids": []}


class Endless(Iterator[dict[str, Any]]):
    """The same input for ever, and how often it was pulled."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.pulled = 0

    def __next__(self) -> dict[str, Any]:
        self.pulled += 1
        return self.value


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0)


def test_inputs_before_one_that_raises_reach_the_backend_and_are_cancelled_there() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield INPUT
        yield INPUT
        raise OSError("the data set")

    backend = RecordingBackend(answers=False)
    with pytest.raises(OSError, match="the data set"):
        next(SamplerBase(backend).sample_stream(broken(), {"max_tokens": 1}))
    # Cancelling what was never submitted would make a backend count wrong.
    assert backend.cancelled == backend.groups
    assert len(backend.groups) == 2


def test_inputs_before_one_that_is_refused_reach_the_backend_and_are_cancelled_there() -> None:
    backend = RecordingBackend(answers=False)
    stream = SamplerBase(backend).sample_stream([INPUT, INPUT, REFUSED], on_error="raise")
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        next(stream)
    assert backend.cancelled == backend.groups
    assert len(backend.groups) == 2


def test_a_cancelled_stream_gives_back_everything_also_when_an_input_failed() -> None:
    backend = RecordingBackend(answers=False)
    stream = SamplerBase(backend).sample_stream([INPUT] * 3, {"max_tokens": 1}, on_error="raise")
    stream._pump()
    backend.groups[0].fail(EngineFailed("boom"))
    left = dict(stream.cancel())
    assert [left[i].sequences[0].stop_reason for i in range(3)] == ["error", "abort", "abort"]


def test_a_cancelled_stream_gives_back_refused_inputs_too() -> None:
    stream = SamplerBase(RecordingBackend(answers=False)).sample_stream([REFUSED, INPUT])
    stream._pump()
    assert sorted(index for index, _ in stream.cancel()) == [0, 1]


@pytest.mark.parametrize(
    "number", [pytest.param(0, id="zero"), pytest.param(-1, id="negative"), 1.5, True, None, "8"]
)
@pytest.mark.parametrize("name", ["sample_stream", "asample_stream"])
def test_a_window_that_is_none_is_refused(name: str, number: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_pending"):
        getattr(SamplerBase(RecordingBackend()), name)([INPUT], max_pending=number)


@pytest.mark.parametrize(
    "inputs", [pytest.param(5, id="a number"), pytest.param("hi", id="a text"), None]
)
@pytest.mark.parametrize("name", ["sample_stream", "asample_stream"])
def test_inputs_that_cannot_be_pulled_are_refused(name: str, inputs: Any) -> None:
    with pytest.raises(InvalidRequest, match="inputs: must be a dict or an iterable"):
        getattr(SamplerBase(RecordingBackend()), name)(inputs)


def test_an_async_iterator_is_sent_to_the_stream_that_takes_it() -> None:
    async def inputs() -> AsyncIterator[dict[str, Any]]:
        yield INPUT

    with pytest.raises(InvalidRequest, match="asample_stream takes async iterators"):
        SamplerBase(RecordingBackend()).sample_stream(inputs())  # type: ignore[arg-type]


def test_a_list_among_the_inputs_is_refused_alone() -> None:
    stream = SamplerBase(RecordingBackend()).sample_stream([[INPUT, INPUT], INPUT])  # type: ignore[list-item]
    found = dict(stream)
    assert str(found[0].sequences[0].error).startswith("inputs[0]: must be one input")
    assert found[1].sequences[0].error is None


async def test_a_loop_that_is_left_cancels_what_is_unfinished() -> None:
    backend = RecordingBackend(answers=False)

    async def first() -> None:
        inputs = itertools.repeat(INPUT)
        stream = SamplerBase(backend).asample_stream(inputs, {"max_tokens": 1}, max_pending=4)
        async for _ in stream:
            break

    left = asyncio.create_task(first())
    await until(lambda: len(backend.groups) == 4)
    backend.end(backend.groups[0])
    await left
    gc.collect()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert all(group.unfinished == 0 for group in backend.groups)
    assert backend.groups[-1].children[0].flag == ABORT


async def test_a_cancelled_consumer_leaves_no_task_behind() -> None:
    backend = RecordingBackend(answers=False)
    stream = SamplerBase(backend).asample_stream([INPUT] * 8, {"max_tokens": 1}, max_pending=2)
    waiting = asyncio.ensure_future(anext(stream))
    await until(lambda: len(backend.groups) == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert [group.unfinished for group in backend.groups] == [0, 0]


async def test_refused_inputs_take_places_in_the_window() -> None:
    inputs = Endless(REFUSED)
    stream = SamplerBase(RecordingBackend()).asample_stream(inputs, max_pending=4)
    for taken in range(1, 20):
        await anext(stream)
        for _ in range(20):
            await asyncio.sleep(0)
        assert inputs.pulled <= taken + 4
    await stream.aclose()


async def test_an_event_loop_pulls_no_further_ahead_than_a_thread() -> None:
    inputs = Endless(INPUT)
    backend = RecordingBackend(answers=False)
    stream = SamplerBase(backend).asample_stream(inputs, {"max_tokens": 1}, max_pending=4)
    waiting = asyncio.ensure_future(anext(stream))
    await until(lambda: len(backend.groups) == 4)
    for _ in range(20):
        await asyncio.sleep(0)
    assert inputs.pulled == 4
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_input_that_raises_ends_the_loop_with_its_error() -> None:
    async def inputs() -> AsyncIterator[dict[str, Any]]:
        yield INPUT
        raise OSError("the data set")

    stream = SamplerBase(RecordingBackend()).asample_stream(inputs(), {"max_tokens": 1})
    with pytest.raises(OSError, match="the data set"):
        async for _ in stream:
            pass


def reasons_of(left: list[Any]) -> dict[int, str]:
    return {index: response.sequences[0].stop_reason for index, response in left}


async def begun(backend: RecordingBackend, **options: Any) -> AsyncSampleStream:
    """A stream of four inputs of which the first has been yielded."""
    stream = SamplerBase(backend).asample_stream([INPUT] * 4, {"max_tokens": 1}, **options)
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: len(backend.groups) == 4)
    backend.end(backend.groups[0])
    await first
    return stream


async def test_a_cancelled_asynchronous_stream_gives_back_everything_that_was_not_yielded() -> None:
    backend = RecordingBackend(answers=False)
    stream = await begun(backend, on_error="raise")
    backend.groups[1].fail(EngineFailed("boom"))
    backend.end(backend.groups[2])
    left = await stream.cancel(partial=True)
    assert reasons_of(left) == {1: "error", 2: "length", 3: "abort"}
    assert [response async for response in stream] == []
    assert await stream.cancel() == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_asynchronous_stream_can_give_back_nothing() -> None:
    backend = RecordingBackend(answers=False)
    stream = await begun(backend)
    assert await stream.cancel(partial=False) == []
    assert [group.unfinished for group in backend.groups] == [0] * 4


async def test_a_cancelled_asynchronous_stream_gives_back_refused_inputs_too() -> None:
    backend = RecordingBackend(answers=False)
    stream = SamplerBase(backend).asample_stream([REFUSED, REFUSED, INPUT], {"max_tokens": 1})
    await anext(stream)
    await until(lambda: len(backend.groups) == 1)
    assert reasons_of(await stream.cancel()) == {1: "error", 2: "abort"}


async def test_an_asynchronous_stream_that_has_not_begun_has_nothing_to_give_back() -> None:
    backend = RecordingBackend()
    stream = SamplerBase(backend).asample_stream([INPUT], {"max_tokens": 1})
    assert await stream.cancel() == []
    assert [response async for response in stream] == []
    assert backend.groups == []


async def test_who_waits_for_a_stream_that_another_task_cancels_sees_its_end() -> None:
    backend = RecordingBackend(answers=False)
    stream = await begun(backend)
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    assert reasons_of(await stream.cancel()) == dict.fromkeys((1, 2, 3), "abort")
    assert await waiting is None


async def test_a_stream_that_is_cancelled_while_it_begins_submits_nothing() -> None:
    backend = RecordingBackend()
    stream = SamplerBase(backend).asample_stream([INPUT], {"max_tokens": 1})
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    assert await stream.cancel() == []
    assert await waiting is None
    assert backend.groups == []


def test_each_input_is_submitted_before_the_next_is_pulled() -> None:
    backend = RecordingBackend(answers=False)
    submitted: list[int] = []

    def inputs() -> Iterator[dict[str, Any]]:
        for _ in range(3):
            submitted.append(len(backend.groups))
            yield INPUT

    stream = SamplerBase(backend).sample_stream(inputs(), {"max_tokens": 1})
    stream._pump()
    assert submitted == [0, 1, 2]
    stream.close()


def test_a_result_does_not_wait_for_inputs_that_come_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    inputs = Endless(INPUT)
    stream = SamplerBase(RecordingBackend()).sample_stream(inputs, {"max_tokens": 1})
    assert next(stream)[0] == 0
    assert inputs.pulled == 1
    stream.close()


def test_inputs_may_follow_from_the_answers_before_them_one_at_a_time() -> None:
    answered: list[int] = []

    def inputs() -> Iterator[dict[str, Any]]:
        for number in range(3):
            assert answered == list(range(number))
            yield INPUT

    backend = RecordingBackend()
    for index, _ in SamplerBase(backend).sample_stream(inputs(), {"max_tokens": 1}, max_pending=1):
        answered.append(index)
    assert answered == [0, 1, 2]


class WithTokenizer(RecordingBackend):
    """Tells the thread in which it is asked for its tokenizer."""

    asked_in = ""

    def tokenizer_files(self) -> Mapping[str, bytes]:
        self.asked_in = threading.current_thread().name
        return {}


async def test_the_tokenizer_is_loaded_beside_the_event_loop() -> None:
    backend = WithTokenizer()
    chat = {"messages": [{"role": "user", "content": "x"}]}
    async with SamplerBase(backend).asample_stream([chat], {"max_tokens": 1}) as stream:
        async for _, response in stream:
            assert response.sequences[0].stop_reason == "error"
    assert backend.asked_in not in ("", threading.current_thread().name)
