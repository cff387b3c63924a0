"""A continued feature stays aligned with its tokens, keeps every key, and shares nothing."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_api.errors import InvalidRequest
from sampler_api.results import SampledSequence
from sampler_api.types import ToolCall
from sampler_core.features import IGNORED, continue_feature
from sampler_core.toolcalls import clean_tool_calls, parse_tool_calls
from sampler_core.view import InputView


class WordTemplate:
    """Token i is word i; the last one is special."""

    words = ("a", "b", "c", '<tool_call>{"name": "f"}</tool_call>', "<|end|>")

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        words = [self.words[i] for i in token_ids]
        return " ".join(w for w in words if not (skip_special_tokens and w == "<|end|>"))


class ToolTemplate(WordTemplate):
    """Reads tool calls too."""

    def parse_tool_call(self, decoded: str) -> list[ToolCall]:
        return parse_tool_calls(decoded)

    def clean_tool_call(self, decoded: str) -> str:
        return clean_tool_calls(decoded)


def array(ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(ids, np.int32)


def test_labels_go_on_shifted_by_one() -> None:
    # Unshifted: [-100, -100, 2, -100] + [3, 4].
    feature = {"input_ids": [0, 1, 2, 1], "labels": [IGNORED, 2, IGNORED, IGNORED]}
    made = continue_feature(feature, array([0, 1, 2, 1]), [3, 4], None)
    assert made["input_ids"] == [0, 1, 2, 1, 3, 4]
    assert made["labels"] == [IGNORED, 2, IGNORED, 3, 4, IGNORED]
    assert made["attention_mask"] == [1] * 6
    assert made["position_ids"] == [0, 1, 2, 3, 4, 5]
    assert made["length"] == 6


def test_without_labels_only_the_new_tokens_are_trained() -> None:
    made = continue_feature({"input_ids": [0, 1]}, array([0, 1]), [2, 3], None)
    assert made["labels"] == [IGNORED, 2, 3, IGNORED]


@pytest.mark.parametrize(
    "types",
    [
        pytest.param([0, 0], id="a list goes on with zeros"),
        pytest.param([[0, 0]], id="one row in a list goes on with zeros"),
        pytest.param(np.zeros((1, 2), np.int64), id="an array goes on with zeros"),
    ],
)
def test_token_types_fit_the_continued_ids(types: Any) -> None:
    feature = {"input_ids": [0, 1], "mm_token_type_ids": types}
    made = continue_feature(feature, array([0, 1]), [2, 3, 4], None)
    assert made["mm_token_type_ids"] == [0] * 5
    again = continue_feature(made, array(made["input_ids"]), [1], None)
    assert again["mm_token_type_ids"] == [0] * len(again["input_ids"]) == [0] * 6


@pytest.mark.parametrize("feature", [{}, {"mm_token_type_ids": None}], ids=["absent", "null"])
def test_token_types_that_are_not_there_stay_so(feature: dict[str, Any]) -> None:
    made = continue_feature({"input_ids": [0], **feature}, array([0]), [2], None)
    assert made.get("mm_token_type_ids") is None
    assert ("mm_token_type_ids" in made) == bool(feature)


COLUMN = st.sampled_from([list, np.array, lambda labels: [labels], tuple])


@settings(deadline=None)
@given(
    st.lists(st.just(IGNORED) | st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4)), COLUMN
)
def test_each_new_token_adds_one_trained_label(
    labels: list[int], tokens: list[int], column: Any
) -> None:
    prompt = array([1] * len(labels))
    made = continue_feature({"input_ids": prompt, "labels": column(labels)}, prompt, tokens, None)
    trained = sum(label != IGNORED for label in labels)
    assert sum(label != IGNORED for label in made["labels"]) == trained + len(tokens)
    assert len(made["labels"]) == len(made["input_ids"]) == made["length"]
    again = continue_feature(made, array(made["input_ids"]), [2], None)
    whole = continue_feature(
        {"input_ids": prompt, "labels": column(labels)}, prompt, [*tokens, 2], None
    )
    assert again == whole


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 labels for 2"):
        continue_feature({"labels": [1]}, array([1, 2]), [3], None)


def test_every_other_key_survives_as_a_deep_plain_copy() -> None:
    class Opaque:
        """Of the caller's, unknown here."""

    feature = {
        "input_ids": np.array([1]),
        "user_data": [("answer", "42")],
        "old_logps": np.array([[0.5, 1.0]]),
        "reward": np.float32(0.5),
        "nested": {"list": [np.int64(3)]},
        "opaque": Opaque(),
        "flag": True,
    }
    made = continue_feature(feature, array([1]), [2], None)
    assert made["user_data"] == [("answer", "42")]
    assert made["old_logps"] == [[0.5, 1.0]]
    assert type(made["reward"]) is float
    assert type(made["nested"]["list"][0]) is int
    assert isinstance(made["opaque"], Opaque)
    assert made["flag"] is True
    made["user_data"].append(("more", "1"))
    made["nested"]["list"].append(1)
    assert feature["user_data"] == [("answer", "42")]
    assert feature["nested"] == {"list": [3]}


def test_tokens_may_be_numpy_and_come_out_plain() -> None:
    made = continue_feature({}, array([1]), list(np.array([2, 3])), None)
    assert made["input_ids"] == [1, 2, 3]
    assert {type(i) for i in made["input_ids"] + made["labels"]} == {int}


def test_the_assistants_message_has_no_special_tokens() -> None:
    feature = {"messages": [{"role": "user", "content": "x"}]}
    before = copy.deepcopy(feature)
    made = continue_feature(feature, array([1]), [0, 1, 4], ToolTemplate())
    assert made["messages"] == [*before["messages"], {"role": "assistant", "content": "a b"}]
    assert feature == before


def test_tool_calls_are_parsed_into_the_message() -> None:
    made = continue_feature({"messages": []}, array([1]), [0, 3, 4], ToolTemplate())
    (message,) = made["messages"]
    assert message["content"] == "a"
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {}}}
    ]


def test_a_template_that_knows_no_tool_calls_keeps_their_text() -> None:
    made = continue_feature({"messages": []}, array([1]), [3], WordTemplate())
    assert made["messages"][0]["content"] == WordTemplate.words[3]
    assert "tool_calls" not in made["messages"][0]


@pytest.mark.parametrize(
    ("feature", "tokens", "template"),
    [
        pytest.param({"messages": []}, [], WordTemplate(), id="nothing was generated"),
        pytest.param({"messages": []}, [1], None, id="there is no template"),
        pytest.param({}, [1], WordTemplate(), id="the feature has no messages"),
    ],
)
def test_no_message_is_appended_when(
    feature: dict[str, Any], tokens: list[int], template: WordTemplate | None
) -> None:
    made = continue_feature(feature, array([1]), tokens, template)
    assert made.get("messages") == feature.get("messages")


def test_a_view_gives_a_sequence_text_and_feature() -> None:
    view = InputView({"input_ids": [0]}, array([0]), WordTemplate())
    sequence = SampledSequence("stop", array([1, 4]), view=view)
    assert sequence.decoded == "b <|end|>"
    assert sequence.new_input_feature is not None
    assert sequence.new_input_feature["input_ids"] == [0, 1, 4]


def test_without_a_template_there_is_a_feature_and_no_text() -> None:
    sequence = SampledSequence("stop", array([1]), view=InputView({}, array([0]), None))
    assert sequence.decoded is None
    assert sequence.new_input_feature is not None
    assert sequence.new_input_feature["input_ids"] == [0, 1]


def test_nothing_generated_has_no_text() -> None:
    assert InputView({}, array([0]), WordTemplate()).decode([]) is None


class LateSource:
    """Counts how often its template is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def template(self) -> WordTemplate:
        self.asked += 1
        return WordTemplate()


def test_a_source_is_asked_for_its_template_only_where_text_is_read() -> None:
    source = LateSource()
    assert InputView({}, array([0]), source).feature([1])["input_ids"] == [0, 1]
    assert source.asked == 0
    view = InputView({"messages": []}, array([0]), source)
    assert view.decode([1]) == "b"
    assert view.feature([1])["messages"] == [{"role": "assistant", "content": "b"}]
    assert source.asked == 2
