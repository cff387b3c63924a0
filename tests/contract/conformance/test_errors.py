"""Section 9 of docs/semantics.md: errors and what goes on beside them."""

import pickle
from typing import Any

import pytest
from tests.checks import prompts
from tests.reference import reference

from sampler_api import errors
from sampler_api.errors import HTTP_STATUS, InvalidRequest, SamplerClosed, SamplerError
from sampler_api.params import SamplingParams
from sampler_core.base import SamplerBase

REF = reference()
GOOD = prompts(REF)
GREEDY = SamplingParams(temperature=0, max_tokens=5, logprobs=1)
BAD: list[dict[str, Any]] = [
    {"input_ids": GOOD[0]},
    {"input_ids": []},
    {"input_ids": GOOD[1]},
    {"input_ids": [5, 99999]},
    {"input_ids": GOOD[2]},
]


def classes() -> list[type[SamplerError]]:
    return [
        value
        for name in errors.__all__
        if isinstance(value := getattr(errors, name), type) and issubclass(value, SamplerError)
    ]


@pytest.mark.rule("S9.1", "S9.6")
def test_bad_inputs_are_raised_after_all_others_have_finished(sampler: SamplerBase) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sampler.sample(BAD, GREEDY, num_samples=2)
    error = raised.value
    assert error.errors is not None
    assert set(error.errors) == {1, 3}
    assert all(isinstance(each, InvalidRequest) for each in error.errors.values())
    assert "inputs[1]" in str(error)
    assert len(error.responses) == 5
    for index, ids in ((0, GOOD[0]), (2, GOOD[1]), (4, GOOD[2])):
        expected = REF.greedy(ids, GREEDY).tokens
        assert [s.tokens for s in error.responses[index].sequences] == [expected] * 2
    assert (
        sampler.sample(BAD[0], GREEDY)[0].sequences[0].tokens == REF.greedy(GOOD[0], GREEDY).tokens
    )


@pytest.mark.rule("S9.1", "S1.15")
async def test_asample_raises_alike(sampler: SamplerBase) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await sampler.asample(BAD, GREEDY)
    assert set(raised.value.errors or ()) == {1, 3}
    assert len(raised.value.responses) == 5


@pytest.mark.rule("S9.2")
def test_bad_inputs_may_be_returned(sampler: SamplerBase) -> None:
    responses = sampler.sample(BAD, GREEDY, num_samples=2, on_error="return")
    for index, response in enumerate(responses):
        assert len(response.sequences) == 2
        for sequence in response.sequences:
            if index in (1, 3):
                assert sequence.stop_reason == "error"
                assert isinstance(sequence.error, InvalidRequest)
                assert sequence.tokens == []
            else:
                assert sequence.error is None
                assert len(sequence.tokens) == 5


@pytest.mark.rule("S9.1")
def test_errors_of_the_engine_s_side_fail_alone_too(sampler: SamplerBase) -> None:
    # A whole call of inputs that are all bad ends as well.
    responses = sampler.sample([{"input_ids": []}] * 3, GREEDY, on_error="return")
    assert [s.stop_reason for s in responses.sequences] == ["error"] * 3


@pytest.mark.rule("S9.5")
@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_errors_have_a_code_and_survive_pickling(cls: type[SamplerError]) -> None:
    error = cls("field: what is wrong", "field")
    error.errors = {0: InvalidRequest("a: b", "a")}
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.field, again.code) == (str(error), "field", cls.code)
    assert isinstance(cls.retryable, bool)
    assert HTTP_STATUS[cls.code] >= 400
    assert sum(other.code == cls.code for other in classes()) == 1


@pytest.mark.rule("S9.5")
def test_time_limits_say_so_in_their_name() -> None:
    timeouts = [cls for cls in classes() if issubclass(cls, TimeoutError)]
    assert len(timeouts) >= 2
    assert all("Timeout" in cls.__name__ for cls in timeouts)


@pytest.mark.rule("S9.7")
def test_a_closed_sampler_refuses_calls(own_sampler: SamplerBase) -> None:
    assert len(own_sampler.sample({"input_ids": [5]}, {"max_tokens": 1})) == 1
    own_sampler.close()
    own_sampler.close()
    with pytest.raises(SamplerClosed):
        own_sampler.sample({"input_ids": [5]}, {"max_tokens": 1})


@pytest.mark.rule("S9.7")
async def test_closing_ends_calls_that_wait(own_sampler: SamplerBase) -> None:
    import asyncio

    call = asyncio.ensure_future(
        own_sampler.asample({"input_ids": [5]}, {"max_tokens": 2000, "ignore_eos": True})
    )
    # Another call that has been answered: by then the first one runs.
    await own_sampler.asample({"input_ids": [5]}, {"max_tokens": 2})
    await asyncio.to_thread(own_sampler.close)
    with pytest.raises(SamplerClosed):
        await call
