"""Messages reach a chat template in one shape, and the caller's stay as they are."""

import copy
from typing import Any

import pytest

from sampler_api.errors import InvalidRequest
from sampler_core.messages import split_reasoning, standard_messages, standard_tools

USER = {"role": "user", "content": "hi"}


def only(message: dict[str, Any], **options: Any) -> dict[str, Any]:
    return standard_messages([message], **options)[0]


def test_text_blocks_become_text() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert only({"role": "user", "content": blocks})["content"] == "abc"


def test_nulls_of_a_data_set_are_dropped_and_missing_content_is_empty() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": None, "tool_call_id": None}
    assert only(message) == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("role", ["user", "system", "tool"])
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="no content"),
        pytest.param({"content": None}, id="a null of a data set"),
        pytest.param({"content": 5}, id="a number"),
        pytest.param({"content": {"text": "hi"}}, id="a block outside of a list"),
        pytest.param({"content": [5]}, id="a list of numbers"),
        pytest.param({"content": [{"type": "text", "text": None}]}, id="a block without text"),
    ],
)
def test_a_message_without_text_is_refused_by_its_position(
    role: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match=rf"messages\[1\]: content of a {role}") as raised:
        standard_messages([USER, {"role": role, **fields}])
    assert raised.value.field == "messages"


def test_an_empty_text_is_content() -> None:
    assert only({"role": "user", "content": ""})["content"] == ""
    assert only({"role": "user", "content": []})["content"] == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"x": 1}', {"x": 1}), ({"x": 1}, {"x": 1}), ("not json", "not json"), ("3", "3")],
    ids=["JSON text", "an object", "broken text", "a number"],
)
def test_tool_arguments_given_as(arguments: Any, expected: Any) -> None:
    call = {"type": "function", "id": None, "function": {"name": "f", "arguments": arguments}}
    made = only({"role": "assistant", "content": "", "tool_calls": [call]})["tool_calls"]
    assert made == [{"type": "function", "function": {"name": "f", "arguments": expected}}]


@pytest.mark.parametrize(
    ("content", "reasoning", "answer"),
    [
        ("<think>\nwhy\n</think>\n\nso", "why", "so"),
        ("why</think>so", "why", "so"),
        ("<think></think>a</think>b", "", "a</think>b"),
    ],
    ids=["in tags", "with an open start", "up to the first end"],
)
def test_thinking_is_split_off(content: str, reasoning: str, answer: str) -> None:
    made = split_reasoning({"role": "assistant", "content": content})
    assert (made["reasoning_content"], made["content"]) == (reasoning, answer)


def test_thinking_stays_where_it_is_known_already_or_the_user_wrote_it() -> None:
    known = {"role": "assistant", "content": "a</think>b", "reasoning_content": "x"}
    assert split_reasoning(known) == known
    assert split_reasoning({"role": "user", "content": "a</think>b"})["content"] == "a</think>b"
    kept = only({"role": "assistant", "content": "a</think>b"}, splits_reasoning=False)
    assert kept["content"] == "a</think>b"


def test_a_default_system_message_comes_first_unless_there_is_one() -> None:
    made = standard_messages([USER], "be kind")
    assert made == [{"role": "system", "content": "be kind"}, USER]
    own = [{"role": "system", "content": "mine"}, USER]
    assert standard_messages(own, "be kind") == own


def test_schemas_of_tools_are_objects() -> None:
    function = {"name": "f", "description": None, "parameters": '{"type": "object"}'}
    expected = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert standard_tools([{"type": "function", "function": function}]) == [expected]
    assert standard_tools(['{"type": "function"}']) == [{"type": "function"}]
    assert standard_tools([]) is None
    assert standard_tools(None) is None


@pytest.mark.parametrize("messages", [None, [], "hi", ["hi"], [{"content": "x"}], [{"role": 1}]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        standard_messages(messages)
    assert caught.value.field == "messages"


def test_nothing_of_the_caller_is_changed() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": "a</think>b",
            "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
    ]
    before = copy.deepcopy(messages)
    standard_messages(messages, "system")
    assert messages == before
