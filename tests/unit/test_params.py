"""Sampling parameters: every wrong value is an InvalidRequest that names its field."""

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.params import SamplingParams

VALID: list[tuple[str, Any, Any]] = [
    ("max_tokens", None, None),
    ("max_tokens", 0, 0),
    ("max_tokens", np.int64(5), 5),
    ("seed", -(2**63), -(2**63)),
    ("seed", 2**64 - 1, 2**64 - 1),
    ("temperature", 0, 0.0),
    ("temperature", np.float32(0.5), 0.5),
    ("top_k", -1, -1),
    ("top_k", 0, 0),
    ("top_k", 50, 50),
    ("top_p", 1, 1.0),
    ("top_p", 1e-9, 1e-9),
    ("min_p", 0, 0.0),
    ("min_p", 1, 1.0),
    ("repetition_penalty", 0.5, 0.5),
    ("presence_penalty", -2, -2.0),
    ("frequency_penalty", 2, 2.0),
    ("logprobs", 0, 0),
    ("logprobs", 1024, 1024),
    ("prompt_logprobs", 20, 20),
    ("num_samples", 4096, 4096),
    ("min_tokens", 3, 3),
    ("ignore_eos", True, True),
    ("stop_token_ids", (1, np.int32(2)), [1, 2]),
    ("stop_token_ids", np.array([1, 2]), [1, 2]),
    ("stop_token_ids", [], None),
    ("stop", "a", ["a"]),
    ("stop", ["a", "b"], ["a", "b"]),
    ("stop", [], None),
    ("logit_bias", {1: 2, "3": -100}, {1: 2.0, 3: -100.0}),
    ("logit_bias", {}, None),
    ("bad_words", ("a", "b"), ["a", "b"]),
    ("bad_words", [], None),
    ("logprobs_mode", "raw", "raw"),
]

INVALID: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")
        for value in (math.nan, math.inf, -math.inf, True, None, "1", [1], 10**400, np.ones(2))
    ),
    *(
        (name, value)
        for name in ("max_tokens", "top_k", "num_samples", "min_tokens", "seed", "logprobs")
        for value in (True, 1.0, "1", [1], math.nan, np.array([1, 2]))
    ),
    ("max_tokens", -1),
    ("seed", 2**64),
    ("seed", -(2**63) - 1),
    ("temperature", -0.1),
    ("top_k", -2),
    ("top_p", 0),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("repetition_penalty", 0),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("logprobs", -1),
    ("logprobs", 1025),
    ("prompt_logprobs", -1),
    ("num_samples", 0),
    ("num_samples", 4097),
    ("min_tokens", -1),
    ("ignore_eos", 1),
    ("ignore_eos", None),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", [1.5]),
    ("stop", [True]),
    ("stop", 5),
    ("stop", b"ab"),
    ("stop", [None]),
    ("stop", [-1]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [True]),
    ("stop_token_ids", "12"),
    ("stop_token_ids", 5),
    ("logit_bias", [1]),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"²": 1}),
    ("logit_bias", {-1: 1}),
    ("logit_bias", {True: 1}),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {1: "2"}),
    ("bad_words", "word"),
    ("bad_words", [""]),
    ("bad_words", [1]),
    ("bad_words", 3),
    ("logprobs_mode", "both"),
    ("logprobs_mode", []),
]


def name_of(value: Any) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize(
    ("name", "value", "expected"), VALID, ids=[f"{n} may be {name_of(v)}" for n, v, _ in VALID]
)
def test_a_valid_value(name: str, value: Any, expected: Any) -> None:
    assert getattr(SamplingParams.from_dict({name: value}), name) == expected


@pytest.mark.parametrize(
    ("name", "value"), INVALID, ids=[f"{n} must not be {name_of(v)}" for n, v in INVALID]
)
def test_an_invalid_value_names_its_field(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{name: value})
    assert caught.value.field == name
    assert str(caught.value).startswith(f"{name}: ")


TEXT = st.text("ab1²-. ", max_size=3)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(b"a"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in fields(SamplingParams)]), ANYTHING))
def test_any_values_are_params_or_an_invalid_request(values: dict[str, Any]) -> None:
    try:
        made = SamplingParams.from_dict(values)
    except InvalidRequest:
        return
    assert SamplingParams.from_dict(made.to_dict()) == made


def test_min_tokens_over_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(max_tokens=2, min_tokens=3)
    assert caught.value.field == "min_tokens"


def test_ids_among_the_stops_are_stop_token_ids() -> None:
    stop: Any = [7, "a", 8]
    made = SamplingParams(stop=stop, stop_token_ids=[1])
    assert made.stop_texts == ["a"]
    assert made.stop_token_ids == [1, 7, 8]


def test_aliases_are_taken_and_the_callers_dict_stays() -> None:
    values = {"max_new_tokens": 5, "n": 2, "stop": ["a"]}
    before = copy.deepcopy(values)
    made = SamplingParams.of(values)
    assert (made.max_tokens, made.num_samples) == (5, 2)
    assert values == before
    made.stop.append("b")  # type: ignore[union-attr]
    assert values == before


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"max_new_token": 1}, "max_new_token", "did you mean 'max_new_tokens'"),
        ({"zzz": 1}, "zzz", "unknown"),
        ({"n": 1, "num_samples": 1}, "num_samples", "given twice"),
    ],
    ids=["misspelled", "near an alias", "unknown", "given twice"],
)
def test_a_name_is_refused_that_is(values: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        SamplingParams.from_dict(values)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["guided_json", "response_format", "return_routed_experts"])
def test_what_this_version_lacks_is_unsupported_and_named(name: str) -> None:
    with pytest.raises(Unsupported) as caught:
        SamplingParams.from_dict({name: {}})
    assert caught.value.field == name


@dataclass
class ForeignParams:
    """Params of another library."""

    max_tokens: int | None = 7
    logprobs: int | None = None


def test_params_of_another_library_are_taken_by_their_fields() -> None:
    foreign: Any = ForeignParams()
    assert SamplingParams.of(foreign).max_tokens == 7


@pytest.mark.parametrize("value", [3, "hot", [], ForeignParams], ids=repr)
def test_what_is_no_params_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams.of(value)
    assert caught.value.field == "sampling_params"


def test_of_gives_a_copy_that_is_checked_again() -> None:
    mine = SamplingParams(temperature=0.5)
    taken = SamplingParams.of(mine)
    assert taken == mine
    assert taken is not mine
    mine.temperature = math.nan
    with pytest.raises(InvalidRequest):
        SamplingParams.of(mine)
    assert SamplingParams.of(None) == SamplingParams()


def test_to_dict_has_what_differs_and_makes_the_same_params() -> None:
    made = SamplingParams(stop="a", logit_bias={1: 2}, seed=3, logprobs=0)
    assert made.to_dict() == {"stop": ["a"], "logit_bias": {1: 2.0}, "seed": 3, "logprobs": 0}
    assert SamplingParams.from_dict(made.to_dict()) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert isinstance(made.to_dict(), Mapping)


def test_temperature_0_is_greedy() -> None:
    assert SamplingParams(temperature=0).is_greedy
    assert not SamplingParams().is_greedy
