"""Section 11 of docs/semantics.md: results as they finish."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.checks import assert_explained, prompts
from tests.fake_backend import RecordingBackend
from tests.reference import reference

from sampler_api.errors import InvalidRequest
from sampler_api.params import SamplingParams
from sampler_api.results import SampleResponse
from sampler_core.base import SamplerBase

REF = reference()
EOS = REF.eos_ids[0]
GREEDY = SamplingParams(temperature=0, max_tokens=6, logprobs=1)
LONG: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True, "logprobs": 1}


def long_and_short() -> list[dict[str, Any]]:
    """A prompt that leaves room for a long answer, and one for two tokens."""
    short = [5 + i % 900 for i in range(REF.context - 2)]
    return [{"input_ids": [5, 6, 7]}, {"input_ids": short}]


@pytest.mark.rule("S11.1")
def test_responses_come_as_they_finish(sampler: SamplerBase) -> None:
    with sampler.sample_stream(long_and_short(), LONG) as stream:
        index, response = next(stream)
        assert index == 1
        assert len(response.sequences[0].tokens) == 2


@pytest.mark.rule("S11.1")
def test_a_stream_answers_every_input_once(sampler: SamplerBase) -> None:
    texts = prompts(REF) * 3
    found = dict(
        sampler.sample_stream([{"input_ids": ids} for ids in texts], GREEDY, num_samples=2)
    )
    assert sorted(found) == list(range(12))
    for index, response in found.items():
        assert response.prompt_token_ids == texts[index]
        assert len(response.sequences) == 2
        for sequence in response.sequences:
            assert_explained(REF, texts[index], sequence, GREEDY)


@pytest.mark.rule("S11.1")
def test_a_stream_draws_what_a_call_draws(sampler: SamplerBase) -> None:
    inputs = [{"input_ids": ids} for ids in prompts(REF)]
    params = {"seed": 5, "max_tokens": 8}
    streamed = dict(sampler.sample_stream(inputs, params))
    called = sampler.sample(inputs, params)
    assert [streamed[i].sequences[0].tokens for i in range(4)] == [
        s.tokens for s in called.sequences
    ]


@pytest.mark.rule("S11.2")
def test_an_endless_iterator_is_pulled_only_so_far_ahead(sampler: SamplerBase) -> None:
    pulled = 0

    def inputs() -> Iterator[dict[str, Any]]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield {"input_ids": [5 + number % 100]}

    with sampler.sample_stream(inputs(), {"max_tokens": 1}, max_pending=4) as stream:
        for taken, _ in enumerate(itertools.islice(stream, 20), start=1):
            assert pulled <= taken + 4
    assert pulled <= 24


@pytest.mark.rule("S11.3")
def test_leaving_the_loop_cancels_what_is_unfinished() -> None:
    for leave in ("break", "close", "exception"):
        backend = RecordingBackend(answers=False)
        stream = SamplerBase(backend).sample_stream([{"input_ids": [5]}] * 3, {"max_tokens": 1})

        def use(stream: Any = stream, backend: Any = backend, leave: str = leave) -> None:
            stream._pump()
            backend.end(backend.groups[0])
            with stream:
                for _ in stream:
                    if leave == "exception":
                        raise KeyboardInterrupt
                    break
                if leave == "close":
                    stream.close()

        if leave == "exception":
            with pytest.raises(KeyboardInterrupt):
                use()
        else:
            use()
        assert [group.index for group in backend.cancelled] == [1, 2]


@pytest.mark.rule("S11.3")
def test_closing_frees_the_engine(sampler: SamplerBase) -> None:
    stream = sampler.sample_stream(
        [{"input_ids": [5, 6 + i]} for i in range(64)], {"max_tokens": 2000, "ignore_eos": True}
    )
    with stream:
        stream._pump()
    # Twice as many as the engine has slots stood in front of this one, for half a minute.
    began = time.monotonic()
    (sequence,) = sampler.sample({"input_ids": [5]}, {"max_tokens": 2})[0].sequences
    assert sequence.error is None
    assert time.monotonic() - began < 5


def assert_partial(response: SampleResponse) -> None:
    """The abandoned answer to the first of ``long_and_short``, with its logprobs."""
    (sequence,) = response.sequences
    assert sequence.stop_reason == "abort"
    assert len(sequence.tokens) < 1900
    assert sequence.logprobs is not None
    assert len(sequence.logprobs) == len(sequence.tokens)
    some = sequence.tokens[:64]
    rows = REF.rows([5, 6, 7], some, SamplingParams())
    for token, row, (_, _, shaped) in zip(some, sequence.logprobs, rows, strict=False):
        assert row[0][0] == token
        assert abs(row[0][1] - shaped[token]) < 1e-4


@pytest.mark.rule("S11.4", "S2.4")
def test_cancelling_gives_what_there_is(sampler: SamplerBase) -> None:
    stream = sampler.sample_stream(long_and_short(), LONG)
    index, _ = next(stream)
    assert index == 1
    ((left, response),) = stream.cancel(partial=True)
    assert left == 0
    assert_partial(response)
    assert list(stream) == []


@pytest.mark.rule("S11.4", "S11.5", "S2.4")
async def test_cancelling_an_asynchronous_stream_gives_what_there_is(sampler: SamplerBase) -> None:
    stream = sampler.asample_stream(long_and_short(), LONG)
    index, _ = await anext(stream)
    assert index == 1
    ((left, response),) = await stream.cancel(partial=True)
    assert left == 0
    assert_partial(response)
    assert [found async for found in stream] == []
    sequence = response.sequences[0]
    # What came back can be given back.
    (whole,) = await sampler.asample(
        long_and_short()[0],
        {"max_tokens": len(sequence.tokens) + 2, "logprobs": 1},
        resume=sequence,
    )
    assert whole.sequences[0].tokens[: len(sequence.tokens)] == sequence.tokens


@pytest.mark.rule("S11.5")
async def test_an_event_loop_has_the_same_stream(sampler: SamplerBase) -> None:
    texts = prompts(REF)

    async def inputs() -> AsyncIterator[dict[str, Any]]:
        for ids in texts:
            await asyncio.sleep(0)
            yield {"input_ids": ids}

    found = {}
    async for index, response in sampler.asample_stream(inputs(), GREEDY, max_pending=2):
        found[index] = response
    assert sorted(found) == list(range(4))
    for index, response in found.items():
        assert response.sequences[0].tokens == REF.greedy(texts[index], GREEDY).tokens


@pytest.mark.rule("S11.3", "S11.5")
async def test_an_asynchronous_stream_can_be_left(sampler: SamplerBase) -> None:
    async with sampler.asample_stream(long_and_short(), LONG) as stream:
        async for index, _ in stream:
            assert index == 1
            break
    (response,) = await sampler.asample({"input_ids": [5]}, {"max_tokens": 2})
    assert response.sequences[0].error is None


@pytest.mark.rule("S11.6")
def test_a_bad_input_of_a_stream_fails_alone(sampler: SamplerBase) -> None:
    inputs: list[Any] = [{"input_ids": [5]}, {"input_ids": []}, "nothing", {"input_ids": [6]}]
    found = dict(sampler.sample_stream(inputs, {"max_tokens": 2, "ignore_eos": True}))
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[i].sequences[0].stop_reason for i in range(4)] == [
        "length",
        "error",
        "error",
        "length",
    ]
    assert isinstance(found[1].sequences[0].error, InvalidRequest)
    with pytest.raises(InvalidRequest, match="input_ids"):
        list(sampler.sample_stream(inputs, {"max_tokens": 2}, on_error="raise"))
