"""What goes in: messages, trajectories and features, with the field names of Twinkle's recipes.

An input is *encoded* iff it has ``input_ids``; a dict from a data loader is often a trajectory and
a feature at once, so unknown keys travel along untouched and come back in ``new_input_feature``.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

__all__ = ["Input", "InputFeature", "InputIds", "Message", "Tool", "ToolCall", "Trajectory"]

InputIds = Sequence[int] | Sequence[Sequence[int]] | np.ndarray
"""Token ids; anything with ``tolist()`` (numpy, torch) is taken too."""


class FunctionCall(TypedDict, total=False):
    """The call part of a tool call; ``arguments`` as JSON text or a dict."""

    name: str
    arguments: str | dict[str, Any]


class ToolCall(TypedDict, total=False):
    """One tool call of an assistant message."""

    id: str
    type: str
    function: FunctionCall


class Message(TypedDict, total=False):
    """One chat message; ``content`` is text or a list of typed blocks."""

    role: str
    type: str
    content: str | list[dict[str, Any]]
    tool_calls: list[ToolCall]
    tool_call_id: str
    reasoning_content: str


class FunctionSpec(TypedDict, total=False):
    """Name, description and JSON schema of a function."""

    name: str
    description: str
    parameters: str | dict[str, Any]


class Tool(TypedDict, total=False):
    """A tool that the model may call."""

    type: str
    function: FunctionSpec


class Trajectory(TypedDict, total=False):
    """A conversation that is not encoded yet."""

    messages: list[Message]
    tools: list[Tool]
    user_data: list[tuple[str, str]]
    images: list[Any] | None
    videos: list[Any] | None
    audios: list[Any] | None
    prompt: str | None


class InputFeature(TypedDict, total=False):
    """An encoded input. ``labels`` are already shifted left by one; -100 is not trained."""

    input_ids: Any
    attention_mask: Any
    position_ids: Any
    labels: Any
    completion_mask: Any
    length: int
    routed_experts: Any


Input = Trajectory | InputFeature | dict[str, Any]
"""One input of ``sample``."""
