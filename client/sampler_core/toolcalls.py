"""Tool calls in generated text: the parsers, and how one is chosen. Pure.

A parser takes the text of one completion. What it cannot read is left out: a model that writes a
broken call has made no call, and the text still shows what it wrote.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sampler_api.types import ToolCall

__all__ = [
    "HermesParser",
    "ToolCallParser",
    "clean_tool_calls",
    "parse_tool_calls",
    "register_parser",
]


class ToolCallParser(Protocol):
    """One notation of tool calls."""

    def detect(self, text: str) -> bool:
        """Whether the text has a call in this notation."""
        ...

    def parse(self, text: str) -> list[ToolCall]:
        """The calls in order; ``arguments`` are a dict."""
        ...

    def clean(self, text: str) -> str:
        """The text without the calls."""
        ...


_BLOCK: Final = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION: Final = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
# A value may itself hold markup, so it ends at the last tag before the next parameter.
_PARAMETER: Final = re.compile(
    r"<parameter=([^>\n]+)>(.*?)(?:</parameter>\s*(?=<parameter=|\Z)|\Z)", re.DOTALL
)


def _value(text: str) -> Any:
    """A parameter's value: JSON where it is JSON, else the text without its framing line breaks."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.removeprefix("\n").removesuffix("\n")


def _call(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}


class HermesParser:
    """``<tool_call>`` blocks with a JSON object (Hermes, Qwen) or ``<function=…>`` (Qwen coder).

    A last block without its end tag, cut by the length limit, counts when what is there is whole.
    """

    def detect(self, text: str) -> bool:
        """Whether the text has a call in this notation."""
        return "<tool_call>" in text

    def parse(self, text: str) -> list[ToolCall]:
        """The calls in order; ``arguments`` are a dict."""
        calls = (self._block(block) for block in _BLOCK.findall(text))
        return [call for call in calls if call is not None]

    def clean(self, text: str) -> str:
        """The text without the calls."""
        return _BLOCK.sub("", text).rstrip()

    def _block(self, block: str) -> ToolCall | None:
        function = _FUNCTION.search(block)
        if function and not block.lstrip().startswith("{"):
            if not function[0].endswith("</function>"):
                return None
            pairs = _PARAMETER.findall(function[2])
            return _call(function[1].strip(), {name.strip(): _value(text) for name, text in pairs})
        try:
            made = json.loads(block)
            name = made.get("name") if isinstance(made, dict) else None
            if not isinstance(name, str) or not name:
                return None
            arguments = made.get("arguments", made.get("parameters", {}))
            if isinstance(arguments, str):
                arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return None
        return _call(name, arguments) if isinstance(arguments, dict) else None


_parsers: list[ToolCallParser] = [HermesParser()]


def register_parser(parser: ToolCallParser) -> None:
    """Add a notation; it is asked before those that are there."""
    _parsers.insert(0, parser)


def _parser_of(text: str) -> ToolCallParser | None:
    return next((parser for parser in _parsers if parser.detect(text)), None)


def parse_tool_calls(text: str) -> list[ToolCall]:
    """The tool calls of a completion, by the first notation that is found in it."""
    parser = _parser_of(text)
    return parser.parse(text) if parser else []


def clean_tool_calls(text: str) -> str:
    """The completion without its tool calls."""
    parser = _parser_of(text)
    return parser.clean(text) if parser else text
