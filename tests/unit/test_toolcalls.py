"""Tool calls are read in both notations; a broken call is no call and raises nothing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_api.types import ToolCall
from sampler_core import toolcalls
from sampler_core.toolcalls import clean_tool_calls, parse_tool_calls, register_parser


def call(name: str, **arguments: Any) -> ToolCall:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


JSON_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
TAG_CALL = (
    "<tool_call>\n<function=write>\n<parameter=path>\na.txt\n</parameter>\n"
    "<parameter=count>\n3\n</parameter>\n</function>\n</tool_call>"
)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        pytest.param("no call", [], id="none"),
        pytest.param(JSON_CALL, [call("add", a=1, b=[2])], id="one in JSON"),
        pytest.param(TAG_CALL, [call("write", path="a.txt", count=3)], id="one in tags"),
        pytest.param(
            f"I will.\n{JSON_CALL}\n{TAG_CALL}",
            [call("add", a=1, b=[2]), call("write", path="a.txt", count=3)],
            id="two after text",
        ),
        pytest.param(
            '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
            [call("f", x=1)],
            id="arguments as JSON text",
        ),
        pytest.param('<tool_call>{"name": "f"}</tool_call>', [call("f")], id="no arguments"),
        pytest.param(
            '<tool_call>{"name": "f", "parameters": {"x": 1}}</tool_call>',
            [call("f", x=1)],
            id="arguments called parameters",
        ),
        pytest.param(
            '<tool_call>{"name": "f", "arguments": {}}',
            [call("f")],
            id="no end tag",
        ),
        pytest.param(
            '<tool_call>{"name": "f", "arguments": {"x": "<function=g></function>"}}</tool_call>',
            [call("f", x="<function=g></function>")],
            id="JSON that holds tags",
        ),
        pytest.param(
            "<tool_call><function=f><parameter=code>\nif a:\n    <parameter>x</parameter> + 1\n"
            "</parameter></function></tool_call>",
            [call("f", code="if a:\n    <parameter>x</parameter> + 1")],
            id="a value with line breaks and tags",
        ),
        pytest.param("<tool_call>{not json}</tool_call>", [], id="broken JSON"),
        pytest.param('<tool_call>["f"]</tool_call>', [], id="a list"),
        pytest.param('<tool_call>{"arguments": {}}</tool_call>', [], id="no name"),
        pytest.param('<tool_call>{"name": 3}</tool_call>', [], id="a number as name"),
        pytest.param('<tool_call>{"name": "f", "arguments": 3}</tool_call>', [], id="no object"),
        pytest.param("<tool_call><function=f><parameter=a>1", [], id="tags that were cut"),
        pytest.param(
            f'<tool_call>{{"name": "f"</tool_call>{JSON_CALL}',
            [call("add", a=1, b=[2])],
            id="a broken one before a good one",
        ),
    ],
)
def test_a_text_with_calls(text: str, calls: list[ToolCall]) -> None:
    assert parse_tool_calls(text) == calls


def test_the_text_without_its_calls() -> None:
    assert clean_tool_calls(f"I will.\n{JSON_CALL}\n{TAG_CALL}") == "I will."
    assert clean_tool_calls("plain  ") == "plain  "
    assert clean_tool_calls("cut <tool_call>{") == "cut"


@settings(deadline=None)
@given(st.text(st.sampled_from('<tool_call>/{}[]"name: arguments=function')))
def test_no_text_raises(text: str) -> None:
    parse_tool_calls("<tool_call>" + text)
    clean_tool_calls(text)


def test_a_registered_notation_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shout:
        def detect(self, text: str) -> bool:
            return "CALL" in text

        def parse(self, text: str) -> list[ToolCall]:
            return [call("shout")]

        def clean(self, text: str) -> str:
            return ""

    monkeypatch.setattr(toolcalls, "_parsers", list(toolcalls._parsers))
    register_parser(Shout())
    assert parse_tool_calls(f"CALL {JSON_CALL}") == [call("shout")]
    assert parse_tool_calls(JSON_CALL) == [call("add", a=1, b=[2])]
