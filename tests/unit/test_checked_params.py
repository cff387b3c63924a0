"""Equal parameters are checked once; what may change, or only looks equal, is checked anew."""

from typing import Any

import pytest

from sampler_api.errors import InvalidRequest
from sampler_api.params import SamplingParams
from sampler_core.checked_params import CheckedParams

EQUAL: list[Any] = [
    pytest.param(lambda: SamplingParams(max_tokens=4, logprobs=1), id="params"),
    pytest.param(lambda: {"max_tokens": 4, "stop": "END"}, id="a dict"),
    pytest.param(lambda: SamplingParams(stop=("a", "b")), id="params with a tuple"),
]


@pytest.mark.parametrize("make", EQUAL[:2])
def test_equal_parameters_give_one_object(make: Any) -> None:
    checked = CheckedParams()
    assert checked.of(make()) is checked.of(make())


@pytest.mark.parametrize("make", EQUAL)
def test_the_result_is_what_a_check_gives(make: Any) -> None:
    checked = CheckedParams()
    checked.of(make())
    assert checked.of(make()) == SamplingParams.of(make())


def test_a_change_of_the_callers_object_is_seen() -> None:
    checked = CheckedParams()
    params = SamplingParams(max_tokens=4, stop=["a"])
    first = checked.of(params)
    params.max_tokens = 5
    assert isinstance(params.stop, list)
    params.stop.append("b")
    second = checked.of(params)
    assert (first.max_tokens, first.stop_texts) == (4, ["a"])
    assert (second.max_tokens, second.stop_texts) == (5, ["a", "b"])


def test_a_change_to_something_wrong_is_refused() -> None:
    checked = CheckedParams()
    params = SamplingParams()
    checked.of(params)
    params.temperature = -1
    with pytest.raises(InvalidRequest, match="temperature"):
        checked.of(params)


def test_true_is_not_the_number_that_it_equals() -> None:
    checked = CheckedParams()
    checked.of({"top_k": 1})
    with pytest.raises(InvalidRequest, match="top_k"):
        checked.of({"top_k": True})


def test_many_sets_do_not_pile_up() -> None:
    checked = CheckedParams()
    for seed in range(1000):
        checked.of(SamplingParams(seed=seed))
    assert len(checked._known) <= 64


@pytest.mark.parametrize("value", [None, {}], ids=["none", "an empty dict"])
def test_nothing_means_the_defaults(value: Any) -> None:
    assert CheckedParams().of(value) == SamplingParams()
