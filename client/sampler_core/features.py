"""The feature of an input, continued by what was generated.

Pure but for the template's decoding. Nothing is truncated here: labels, logprobs and tokens of one
sequence stay aligned whatever the template's ``max_length``.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import InvalidRequest
from sampler_api.types import ToolCall

from .inputs import column

__all__ = ["IGNORED", "Decoder", "attention_columns", "continue_feature", "shift_labels"]

IGNORED: Final = -100
"""The label of a token that is not trained."""
_REPLACED: Final = frozenset(("input_ids", "labels", "attention_mask", "position_ids", "length"))
_TOKEN_TYPES: Final = "mm_token_type_ids"


class Decoder(Protocol):
    """What is needed of a template; ``parse_tool_call`` and ``clean_tool_call`` are optional."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        ...


def shift_labels(labels: Sequence[int]) -> list[int]:
    """Labels rolled left by one: position i holds what token i is trained to predict."""
    return [*labels[1:], *labels[:1]]


def attention_columns(length: int) -> dict[str, Any]:
    """The columns that follow from the length alone."""
    return {
        "attention_mask": [1] * length,
        "position_ids": list(range(length)),
        "length": length,
    }


def _plain(value: Any) -> Any:
    """A deep copy in which arrays and numpy scalars are lists and numbers."""
    if isinstance(value, str | int | float | None):
        return value.item() if isinstance(value, np.generic) else value
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return copy.deepcopy(value)


def _continued_labels(labels: Any, prompt: int, tokens: list[int]) -> list[int]:
    """Shifted labels of the prompt (or ``None``), continued by tokens that are all trained."""
    if labels is None:
        original = [IGNORED] * prompt
    else:
        shifted = column(labels)
        if len(shifted) != prompt:
            raise InvalidRequest(
                f"labels: {len(shifted)} labels for {prompt} input_ids; give one per token",
                "labels",
            )
        original = [*shifted[-1:], *shifted[:-1]]
    return shift_labels([*original, *tokens])


def _assistant_message(tokens: list[int], template: Decoder) -> dict[str, Any]:
    text = template.decode(tokens, skip_special_tokens=True)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    parse = getattr(template, "parse_tool_call", None)
    calls: list[ToolCall] = parse(text) if parse else []
    if calls:
        clean = getattr(template, "clean_tool_call", None)
        message["content"] = clean(text) if clean else text
        message["tool_calls"] = calls
    return message


def continue_feature(
    feature: Mapping[str, Any],
    prompt_ids: NDArray[np.int32],
    tokens: Sequence[int],
    template: Decoder | None,
) -> dict[str, Any]:
    """``feature`` with ``tokens`` appended to the prompt i32 [P], in plain lists; a deep copy.

    ``labels`` come and go shifted left by one; without them no prompt token is trained. Each new
    token adds one label other than -100. When the feature has ``messages`` and there is a template,
    an assistant message is appended (for no tokens: none). ``mm_token_type_ids`` go on with zeros,
    where the feature has them. All other keys survive as they are.
    """
    new = [int(token) for token in tokens]
    prompt: list[int] = prompt_ids.tolist()
    made = {key: _plain(value) for key, value in feature.items() if key not in _REPLACED}
    made["input_ids"] = prompt + new
    made["labels"] = _continued_labels(feature.get("labels"), len(prompt), new)
    made |= attention_columns(len(prompt) + len(new))
    if feature.get(_TOKEN_TYPES) is not None:
        # Zero is text, and nothing else is served (``inputs.check_supported``).
        made[_TOKEN_TYPES] = [0] * (len(prompt) + len(new))
    messages = made.get("messages")
    if isinstance(messages, list | tuple) and new and template is not None:
        made["messages"] = [*messages, _assistant_message(new, template)]
    return made
