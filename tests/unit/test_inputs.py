"""Inputs are taken in every shape that recipes use; a wrong one gets an error naming its field."""

import copy
from typing import Any

import numpy as np
import pytest

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.params import SamplingParams
from sampler_core.inputs import (
    check_supported,
    is_encoded,
    normalise_inputs,
    prompt_ids,
    resolve_num_samples,
)

VOCABULARY = 100
CONTEXT = 8


def ids_of(value: Any, **other: Any) -> list[int]:
    """What prompt_ids makes of a feature with these ids."""
    return list(prompt_ids({"input_ids": value, **other}, VOCABULARY, CONTEXT).tolist())


class FakeTensor:
    """Has tolist and nothing else."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values


def test_a_single_dict_is_a_list_of_one() -> None:
    assert normalise_inputs({"input_ids": [1]}) == [{"input_ids": [1]}]


def test_lists_and_tuples_are_taken_in_order() -> None:
    items = [{"input_ids": [1]}, {"messages": []}]
    assert normalise_inputs(items) == items
    assert normalise_inputs(tuple(items)) == items


def test_the_callers_list_and_dicts_are_not_the_ones_that_come_out() -> None:
    items = [{"input_ids": [1]}]
    taken = normalise_inputs(items)
    taken[0]["more"] = 1
    taken.append({})
    assert items == [{"input_ids": [1]}]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        pytest.param([], "empty", id="an empty list"),
        pytest.param("hello", "not str", id="a text"),
        pytest.param(None, "not NoneType", id="nothing"),
        pytest.param([{"input_ids": [1]}, "hello"], r"inputs\[1\]", id="a text among dicts"),
    ],
)
def test_what_is_no_input_is_refused_by_name(inputs: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        normalise_inputs(inputs)
    assert caught.value.field == "inputs"


def test_each_input_of_a_mixed_batch_is_judged_by_itself() -> None:
    batch: list[dict[str, Any]] = [
        {"messages": []},
        {"input_ids": [1], "messages": []},
        {"input_ids": None},
    ]
    assert [is_encoded(item) for item in batch] == [False, True, False]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([1, 2, 3], id="a list"),
        pytest.param((1, 2, 3), id="a tuple"),
        pytest.param([[1, 2, 3]], id="one row in a list"),
        pytest.param([np.array([1, 2, 3])], id="one array in a list"),
        pytest.param(np.array([1, 2, 3]), id="an int64 array"),
        pytest.param(np.array([1, 2, 3], np.uint8), id="a uint8 array"),
        pytest.param(np.array([[1, 2, 3]], np.int32), id="an array of one row"),
        pytest.param([np.int64(1), 2, np.int32(3)], id="a list with numpy integers"),
        pytest.param(FakeTensor([1, 2, 3]), id="a tensor"),
        pytest.param(FakeTensor([[1, 2, 3]]), id="a tensor of one row"),
    ],
)
def test_ids_are_taken_from(value: Any) -> None:
    ids = prompt_ids({"input_ids": value}, VOCABULARY, CONTEXT)
    assert ids.tolist() == [1, 2, 3]
    assert ids.dtype == np.int32


def test_the_array_that_comes_out_is_a_copy() -> None:
    mine = np.array([1, 2, 3], np.int32)
    prompt_ids({"input_ids": mine}, VOCABULARY, CONTEXT)[0] = 9
    assert mine.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "missing", id="no ids"),
        pytest.param([], "empty", id="an empty list"),
        pytest.param([[]], "empty", id="an empty row"),
        pytest.param(np.array([]), "empty", id="an empty array"),
        pytest.param([[1, 2], [3, 4]], "2 rows", id="two rows"),
        pytest.param(np.ones((2, 2), int), r"shape \(2, 2\)", id="an array of two rows"),
        pytest.param([1, True], "True at position 1", id="a bool"),
        pytest.param(np.array([True]), "not bool", id="a bool array"),
        pytest.param([1, 2.0], "2.0 at position 1", id="a float"),
        pytest.param(np.array([1.0]), "not float64", id="a float array"),
        pytest.param([1, None], "None at position 1", id="a hole"),
        pytest.param([1, "2"], "'2' at position 1", id="a text id"),
        pytest.param("12", "not str", id="a text"),
        pytest.param(7, "not int", id="a number"),
        pytest.param([1, [2]], r"\[2\] at position 1", id="a ragged list"),
        pytest.param([1, -1], "-1 at position 1 .*0 to 99", id="a negative id"),
        pytest.param([1, 100], "100 at position 1 .*0 to 99", id="an id past the vocabulary"),
        pytest.param([1, 2**70], "at position 1", id="an id past 64 bits"),
        pytest.param(np.array([2**63], np.uint64), "position 0", id="an id past int64"),
        pytest.param([1] * 8, "8 tokens .* context is 8", id="a prompt that fills the context"),
    ],
)
def test_ids_are_refused_for(value: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        ids_of(value)
    assert caught.value.field == "input_ids"


def test_the_longest_prompt_leaves_room_for_one_token() -> None:
    assert ids_of([0, 99] + [1] * 5) == [0, 99] + [1] * 5


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 labels for 2") as caught:
        ids_of([1, 2], labels=[1])
    assert caught.value.field == "labels"
    assert ids_of([1, 2], labels=[[1, 2]]) == [1, 2]
    assert ids_of([1, 2], labels=np.array([1, 2])) == [1, 2]


@pytest.mark.parametrize(
    "mask", [[0, 1], [[0, 1]], np.array([0, 1])], ids=["a list", "a nested list", "an array"]
)
def test_padding_is_refused_given_as(mask: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ids_of([1, 2], attention_mask=mask)
    assert caught.value.field == "attention_mask"


def test_a_mask_without_padding_is_taken() -> None:
    assert ids_of([1, 2], attention_mask=[1, 1]) == [1, 2]
    assert ids_of([1, 2], attention_mask=np.ones(2)) == [1, 2]


@pytest.mark.parametrize(
    ("key", "item"),
    [
        pytest.param("images", {"images": ["a.png"]}, id="images"),
        pytest.param("pixel_values", {"pixel_values": np.ones((1, 2))}, id="pixels"),
        pytest.param("routed_experts", {"routed_experts": [[1]]}, id="routed experts"),
        pytest.param("mm_token_type_ids", {"mm_token_type_ids": [0, 1]}, id="media token types"),
        pytest.param("images", {"messages": [{"images": ["a"]}]}, id="images of a message"),
        pytest.param(
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}]},
            id="an image block",
        ),
    ],
)
def test_unsupported_is_named(key: str, item: dict[str, Any]) -> None:
    for check in (check_supported, lambda i: prompt_ids({"input_ids": [1], **i}, 9, 9)):
        with pytest.raises(Unsupported) as caught:
            check(item)
        assert caught.value.field == key


def test_empty_media_keys_and_text_blocks_are_fine() -> None:
    check_supported(
        {
            "images": [],
            "videos": None,
            "pixel_values": np.empty(0),
            "mm_token_type_ids": [0, 0],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        }
    )


def test_nothing_of_the_caller_is_changed() -> None:
    feature = {"input_ids": [[1, 2]], "labels": [1, 2], "messages": [{"role": "user"}], "x": {}}
    before = copy.deepcopy(feature)
    prompt_ids(feature, VOCABULARY, CONTEXT)
    normalise_inputs([feature])
    assert feature == before


@pytest.mark.parametrize(
    ("in_params", "in_call", "expected"),
    [(1, 1, 1), (4, 1, 4), (1, 4, 4), (4, 4, 4)],
    ids=["unset", "in the params", "in the call", "twice the same"],
)
def test_the_number_of_samples_given(in_params: int, in_call: int, expected: int) -> None:
    assert resolve_num_samples(SamplingParams(num_samples=in_params), in_call) == expected


@pytest.mark.parametrize("number", [0, -1, True, 2.0, None, 5000])
def test_a_number_of_samples_is_refused_when_it_is(number: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve_num_samples(SamplingParams(), number)
    assert caught.value.field == "num_samples"


def test_two_different_numbers_of_samples_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match="one place"):
        resolve_num_samples(SamplingParams(num_samples=2), 3)
