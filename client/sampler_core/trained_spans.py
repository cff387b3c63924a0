"""Which part of a rendered conversation the model is to be trained on. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sampler_api.errors import InvalidRequest

__all__ = ["has_generation_marks", "trained_spans"]

_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")

Render = Callable[[list[Any], bool], str]


def has_generation_marks(chat_template: str) -> bool:
    """Whether a chat template itself marks what the model generates."""
    return _GENERATION.search(chat_template) is not None


def _common(a: str, b: str) -> int:
    """Length of the common beginning."""
    if a.startswith(b):
        return len(b)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def trained_spans(
    text: str, messages: Sequence[Mapping[str, Any]], render: Render, eos: str
) -> list[tuple[int, int]]:
    """Character spans of the assistant's messages in ``text``, the rendering of ``messages``.

    A span begins after the generation prompt and ends with the EOS text. ``render(messages,
    add_generation_prompt)`` renders a part of the conversation.
    """
    spans: list[tuple[int, int]] = []
    at = 0
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = max(at, _start(text, messages[:position], message, render, at))
        at = _end(text, messages[: position + 1], message, render, start, eos)
        if at > start:
            spans.append((start, at))
    return spans


def _start(
    text: str,
    before: Sequence[Mapping[str, Any]],
    message: Mapping[str, Any],
    render: Render,
    at: int,
) -> int:
    if before:
        try:
            return _common(text, render(list(before), True))
        except InvalidRequest:
            # Some templates refuse a conversation that stops here.
            pass
    return max(at, text.find(str(message["content"]), at))


def _end(
    text: str,
    through: Sequence[Mapping[str, Any]],
    message: Mapping[str, Any],
    render: Render,
    start: int,
    eos: str,
) -> int:
    try:
        whole = render(list(through), False)
    except InvalidRequest:
        whole = ""
    if len(whole) > start and text.startswith(whole):
        end = len(whole)
    else:
        # Earlier turns may be rendered otherwise once others follow, for one without thinking.
        content = str(message["content"]).strip()
        found = text.find(content, start)
        if found < 0:
            return start
        end = found + len(content)
        if eos and text.startswith(eos, end):
            return end + len(eos)
    if eos:
        closed = text.rfind(eos, start, end)
        # What follows EOS, such as a line break, is the template's.
        if closed >= 0 and not text[closed + len(eos) : end].strip():
            return closed + len(eos)
    return end
