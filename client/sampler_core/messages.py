"""Messages and tools as chat templates expect them. Pure; the caller's are never changed."""

import json
from collections.abc import Mapping
from typing import Any

from sampler_api.errors import InvalidRequest

__all__ = ["split_reasoning", "standard_messages", "standard_tools"]


def _decoded(value: Any) -> Any:
    """JSON text of an object as the object; everything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        made = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return made if isinstance(made, dict) else value


def _filled(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without the nulls that columnar data sets put where a row lacks a key."""
    return {key: item for key, item in value.items() if item is not None}


def _text(content: Any) -> str | None:
    """The text, or that of a list of text blocks; ``None`` for what is neither."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return None
    texts = [block.get("text", "") if isinstance(block, Mapping) else block for block in content]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _tool_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    made = _filled(call)
    function = made.get("function")
    if isinstance(function, Mapping):
        made["function"] = {
            key: _decoded(value) if key == "arguments" else value
            for key, value in _filled(function).items()
        }
    elif "arguments" in made:
        made["arguments"] = _decoded(made["arguments"])
    return made


def split_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """An assistant message with its thinking, up to ``</think>``, as ``reasoning_content``."""
    content = message.get("content")
    if (
        message.get("role") != "assistant"
        or "reasoning_content" in message
        or not isinstance(content, str)
        or "</think>" not in content
    ):
        return message
    thinking, _, answer = content.partition("</think>")
    thinking = thinking.rpartition("<think>")[2].strip("\n")
    return {**message, "reasoning_content": thinking, "content": answer.lstrip("\n")}


def standard_messages(
    messages: Any, default_system: str | None = None, splits_reasoning: bool = True
) -> list[dict[str, Any]]:
    """New messages: text content, tool arguments as objects, a system message if there is none.

    Raises InvalidRequest, which names the message by its position.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidRequest(
            "messages: must be a list with at least one message (or give input_ids instead)",
            "messages",
        )
    made: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{position}]: must be a dict with role and content", "messages"
            )
        item = _filled(message)
        # An assistant may only have called a tool.
        content = item.get("content", "" if item["role"] == "assistant" else None)
        item["content"] = _text(content)
        if item["content"] is None:
            found = "none" if content is None else f"a {type(content).__name__}"
            raise InvalidRequest(
                f"messages[{position}]: content of a {item['role']} message must be a text or a "
                f"list of text blocks, and here is {found}",
                "messages",
            )
        if item.get("tool_calls"):
            item["tool_calls"] = [_tool_call(call) for call in item["tool_calls"]]
        else:
            item.pop("tool_calls", None)
        made.append(split_reasoning(item) if splits_reasoning else item)
    if default_system and made[0]["role"] != "system":
        made.insert(0, {"role": "system", "content": default_system})
    return made


def standard_tools(tools: Any) -> list[Any] | None:
    """New tools with their schemas as objects; ``None`` for none."""
    made: list[Any] = []
    for tool in tools or ():
        item = _decoded(tool)
        if isinstance(item, Mapping):
            item = _filled(item)
            function = item.get("function")
            if isinstance(function, Mapping):
                function = _filled(function)
                if "parameters" in function:
                    function["parameters"] = _decoded(function["parameters"])
                item["function"] = function
        made.append(item)
    return made or None
