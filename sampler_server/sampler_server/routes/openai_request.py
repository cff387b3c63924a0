"""What OpenAI clients send: fields to our params, and a typed refusal for what is not served."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_api.params import SamplingParams

from .bodies import check_fields, flag, integer, sampling_params
from .jobs import MAX_SEQUENCES

__all__ = ["Asked", "asked"]

_MAX_TOP: Final = 20
_COMPLETION_TOKENS: Final = 16
"""The default of the completions route, as OpenAI clients expect it."""

_SAMPLING: Final = (
    "seed",
    "stop",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    # Not OpenAI's, but named alike by the servers that its clients talk to.
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "bad_words",
)
_COMMON: Final = (
    *_SAMPLING,
    "model",
    "max_tokens",
    "n",
    "stream",
    "stream_options",
    "logprobs",
    "return_token_ids",
)
_WITHOUT_EFFECT: Final = ("user", "metadata", "store", "service_tier", "safety_identifier")
_CHAT: Final = (*_COMMON, "messages", "max_completion_tokens", "top_logprobs")
_COMPLETION: Final = (*_COMMON, "prompt")
_NOT_SERVED: Final = {
    "tools": "tool calls are not parsed here in this version; render them into the messages",
    "tool_choice": "tool calls are not served in this version",
    "functions": "tool calls are not served in this version",
    "function_call": "tool calls are not served in this version",
    "response_format": "structured output is not served in this version",
    "modalities": "only text is served",
    "audio": "only text is served",
    "echo": "the prompt is not repeated; use /v1/sample with prompt_logprobs",
    "suffix": "text is only continued, not filled in",
    "best_of": "ask for n samples and choose",
}
# Values of fields that are not served which ask for nothing.
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``top`` candidates per token are shown; -1 = no logprobs at all."""

    params: SamplingParams
    number: int
    top: int
    stream: bool
    include_usage: bool
    return_token_ids: bool


def asked(body: Mapping[str, Any], is_chat: bool) -> Asked:
    """Check the fields of a chat or completions request. Raises InvalidRequest, Unsupported."""
    _refuse(body)
    known = (_CHAT if is_chat else _COMPLETION) + _WITHOUT_EFFECT
    check_fields({name: 0 for name in body if name not in _NOT_SERVED}, known)
    top = _top_of_chat(body) if is_chat else _top_of_completion(body)
    values = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    limit = body.get("max_tokens")
    if is_chat and body.get("max_completion_tokens") is not None:
        limit = body["max_completion_tokens"]
    if limit is None and not is_chat:
        limit = _COMPLETION_TOKENS
    if limit is not None:
        values["max_tokens"] = limit
    if top >= 0:
        # The sampled token is always among our k; OpenAI's top candidates may do without it.
        values["logprobs"] = top + 1
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options: must be an object", "stream_options")
    check_fields(options, ("include_usage",), "stream_options.")
    return Asked(
        params=sampling_params(values),
        number=integer(body, "n", 1, MAX_SEQUENCES) or 1,
        top=top,
        stream=flag(body, "stream"),
        include_usage=flag(options, "include_usage"),
        return_token_ids=flag(body, "return_token_ids"),
    )


def _refuse(body: Mapping[str, Any]) -> None:
    for name, reason in _NOT_SERVED.items():
        value = body.get(name)
        if value is None or value in _HARMLESS.get(name, ()):
            continue
        if name == "best_of" and value == (body.get("n") or 1):
            continue
        raise Unsupported(f"{name}: {reason}", name)


def _top_of_chat(body: Mapping[str, Any]) -> int:
    wants = flag(body, "logprobs")
    top = integer(body, "top_logprobs", 0, _MAX_TOP)
    if top and not wants:
        raise InvalidRequest("top_logprobs: needs logprobs to be true", "top_logprobs")
    return (top or 0) if wants else -1


def _top_of_completion(body: Mapping[str, Any]) -> int:
    top = integer(body, "logprobs", 0, _MAX_TOP)
    return -1 if top is None else top
