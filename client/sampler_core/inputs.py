"""What a caller passes, checked: inputs to dicts, features to prompt ids, one number of samples.

Nothing of the caller's is changed, and every array that comes out is a copy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.params import SamplingParams

__all__ = [
    "check_supported",
    "column",
    "is_encoded",
    "normalise_inputs",
    "prompt_ids",
    "resolve_num_samples",
]

_MEDIA_KEYS: Final = (
    "images",
    "videos",
    "audios",
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "video_grid_thw",
    "second_per_grid_ts",
    "input_features",
    "mm_processor_kwargs",
    "input_embedding",
    "inputs_embeds",
)
_OTHER_KEYS: Final = ("routed_experts",)
_UNSUPPORTED_KEYS: Final = frozenset((*_MEDIA_KEYS, *_OTHER_KEYS))
_MESSAGE_MEDIA: Final = ("images", "videos", "audios")
_I32: Final = np.dtype(np.int32)
_I64: Final = np.dtype(np.int64)
_SHAPE_HINT: Final = "give {'messages': [...]} or {'input_ids': [...]}, or a list of them"


def normalise_inputs(inputs: Any) -> list[dict[str, Any]]:
    """One input or a list or tuple of inputs as a new list of shallow copies.

    Raises InvalidRequest, which names ``inputs``, when there is none or one is no mapping.
    """
    if isinstance(inputs, Mapping):
        return [dict(inputs)]
    if not isinstance(inputs, list | tuple):
        kind = type(inputs).__name__
        raise InvalidRequest(f"inputs: must be a dict or a list of dicts, not {kind}", "inputs")
    if not inputs:
        raise InvalidRequest("inputs: the list is empty; give at least one input", "inputs")
    for position, item in enumerate(inputs):
        if not isinstance(item, Mapping):
            kind = type(item).__name__
            raise InvalidRequest(
                f"inputs[{position}]: must be a dict, not {kind}; {_SHAPE_HINT}", "inputs"
            )
    return [dict(item) for item in inputs]


def is_encoded(item: Mapping[str, Any]) -> bool:
    """Whether an input has its token ids already; each input of a batch is judged by itself."""
    return item.get("input_ids") is not None


def _is_filled(value: Any) -> bool:
    if value is None or value is False:
        return False
    # An array without dimensions has __len__, and raises.
    return not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0 or len(value) > 0


def _refuse(key: str, what: str) -> Unsupported:
    return Unsupported(f"{key}: {what} not supported in this version; remove the key", key)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list | tuple):
        return
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        for key in _MESSAGE_MEDIA:
            if key in message and _is_filled(message[key]):
                raise _refuse(key, "images, video and audio are")
        content = message.get("content")
        if not isinstance(content, list | tuple):
            continue
        for block in content:
            if isinstance(block, Mapping) and block.get("type", "text") != "text":
                kind = block["type"]
                raise Unsupported(
                    f"messages: content of type {kind!r} is not supported in this version; "
                    "only text is",
                    "messages",
                )


def check_supported(item: Mapping[str, Any]) -> None:
    """Refuse what would otherwise be dropped: media and ``routed_experts``.

    Raises Unsupported, which names the key.
    """
    for key in _UNSUPPORTED_KEYS.intersection(item):
        if _is_filled(item[key]):
            is_media = key in _MEDIA_KEYS
            raise _refuse(key, "images, video and audio are" if is_media else "router replay is")
    # A text-only template may write these, all zero.
    types = item.get("mm_token_type_ids")
    if types is not None and np.any(np.asarray(types)):
        raise _refuse("mm_token_type_ids", "images, video and audio are")
    _check_messages(item.get("messages"))


def _fail(text: str) -> InvalidRequest:
    return InvalidRequest(f"input_ids: {text}", "input_ids")


def _unnest(value: Any) -> Any:
    """The one row of ``[[…]]``, or the value itself."""
    if value and isinstance(value[0], list | tuple | np.ndarray):
        if len(value) != 1:
            raise _fail(f"holds {len(value)} rows; give one input per prompt")
        return value[0]
    return value


def _array(value: Any) -> NDArray[Any]:
    """The ids as an integer array of any width, [P]; not necessarily a copy."""
    if not isinstance(value, np.ndarray) and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = _unnest(value)
    if isinstance(value, np.ndarray):
        array = value
        if array.ndim == 2 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 1:
            raise _fail(f"must be a flat list of token ids, not an array of shape {array.shape}")
        if array.size and array.dtype.kind not in "iu":
            raise _fail(f"must hold integers, not {array.dtype}")
        return array
    if not isinstance(value, list | tuple):
        raise _fail(f"must be a list of token ids, not {type(value).__name__}")
    # bool is an int to Python and to numpy, and a mistake here; types are looked at once each.
    for kind in set(map(type, value)):
        if kind is not int and not issubclass(kind, np.integer):
            position = next(i for i, item in enumerate(value) if type(item) is kind)
            raise _fail(f"must hold integers, not {value[position]!r} at position {position}")
    try:
        return np.array(value, _I64)
    except OverflowError:
        position = next(i for i, item in enumerate(value) if not -(2**63) <= int(item) < 2**63)
        raise _fail(f"{value[position]} at position {position} is no token id") from None


def _flat_length(value: Any) -> int | None:
    """Length of a column that may be nested in one row; ``None`` for what is no column."""
    if not hasattr(value, "__len__"):
        return None
    if len(value) == 1 and hasattr(value[0], "__len__"):
        return len(value[0])
    return len(value)


def _check_columns(feature: Mapping[str, Any], length: int) -> None:
    """Columns beside the ids that would be misaligned or ignored."""
    labels = feature.get("labels")
    if labels is not None and (n := _flat_length(labels)) != length:
        raise InvalidRequest(
            f"labels: {n} labels for {length} input_ids; give one per token", "labels"
        )
    mask = feature.get("attention_mask")
    if mask is None:
        return
    if isinstance(mask, list) and len(mask) == length:
        has_padding = 0 in mask
    else:
        has_padding = not np.all(np.asarray(mask))
    if has_padding:
        raise InvalidRequest(
            "attention_mask: marks padding; give input_ids without padding", "attention_mask"
        )


def prompt_ids(
    feature: Mapping[str, Any], vocab_size: int, context_limit: int
) -> NDArray[np.int32]:
    """The prompt of an encoded input, a fresh i32 [P].

    ``input_ids`` may be a list, one row in a list, or anything with ``tolist()``. Raises
    Unsupported for media and ``routed_experts``, else InvalidRequest: no or empty ``input_ids``,
    entries that are no integers or outside the vocabulary, a prompt that leaves no room for a
    token, labels of another length, padding.
    """
    check_supported(feature)
    value = feature.get("input_ids")
    if value is None:
        raise _fail(f"missing; {_SHAPE_HINT}")
    array = _array(value)
    length = len(array)
    if length == 0:
        raise _fail("the prompt is empty; give at least one token")
    # Seen without sign a negative id is a huge one: a single pass finds both kinds.
    unsigned = array.view(np.uint64) if array.dtype == _I64 else array.astype(np.uint64)
    if unsigned.max() >= vocab_size:
        position = int((unsigned >= vocab_size).argmax())
        raise _fail(
            f"{int(array[position])} at position {position} is outside the vocabulary "
            f"(0 to {vocab_size - 1})"
        )
    if length >= context_limit:
        raise _fail(
            f"the prompt has {length} tokens and the model's context is {context_limit}; "
            f"at most {context_limit - 1} leave room for one more"
        )
    _check_columns(feature, length)
    return array.astype(_I32)


def resolve_num_samples(params: SamplingParams, num_samples: int = 1) -> int:
    """Samples per input, from the keyword or the params; 1 means unset.

    Raises InvalidRequest when ``num_samples`` is no positive integer or both say different numbers.
    """
    is_unset = type(num_samples) is int and num_samples == 1
    asked = 1 if is_unset else SamplingParams(num_samples=num_samples).num_samples
    if asked == 1 or asked == params.num_samples:
        return params.num_samples
    if params.num_samples != 1:
        raise InvalidRequest(
            f"num_samples: {asked} in the call and {params.num_samples} in sampling_params; "
            "give it in one place",
            "num_samples",
        )
    return asked


def column(value: Any) -> list[Any]:
    """A column of a feature (list, one row in a list, array, tensor) as a new flat list."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    items: Sequence[Any] = _unnest(value)
    return items.tolist() if isinstance(items, np.ndarray) else list(items)
