"""Our columns as the objects that OpenAI clients read."""

from collections.abc import Callable, Sequence
from typing import Any

from sampler_api.columns import Columns
from sampler_api.errors import HTTP_STATUS, EngineFailed, SamplerError
from sampler_api.frames import LENGTH, STOP

__all__ = ["chat_logprobs", "completion_logprobs", "finish_reason", "openai_error", "usage"]

Decode = Callable[[Sequence[int]], str]
_UNFINISHED = "�"


def finish_reason(flag: int) -> str | None:
    """``stop`` and ``length``; anything else is reported as an error, not as a reason."""
    return {STOP: "stop", LENGTH: "length"}.get(flag)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def openai_error(error: SamplerError) -> dict[str, Any]:
    """OpenAI's error shape with our code."""
    status = HTTP_STATUS[error.code]
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.field,
            "code": error.code,
            "retryable": error.retryable,
        }
    }


def _rows(columns: Columns) -> list[list[tuple[int, float]]]:
    try:
        rows = columns.rows()
    except ValueError:
        raise EngineFailed("logprobs: the engine left some out") from None
    return [] if rows is None else rows.tolist()


def _best(row: list[tuple[int, float]], top: int) -> list[tuple[int, float]]:
    return sorted(row, key=lambda pair: -pair[1])[:top]


def _token(decode: Decode, token: int, logprob: float) -> dict[str, Any]:
    text = decode([token])
    # Part of a character has no text of its own, and its bytes are not known here.
    data = None if _UNFINISHED in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": data}


def chat_logprobs(columns: Columns, top: int, decode: Decode) -> dict[str, Any] | None:
    """``choices[].logprobs`` of a chat answer; ``None`` when none were asked for."""
    if top < 0:
        return None
    content = [
        {
            **_token(decode, *row[0]),
            "top_logprobs": [_token(decode, *pair) for pair in _best(row, top)],
        }
        for row in _rows(columns)
    ]
    return {"content": content}


def completion_logprobs(
    columns: Columns, top: int, decode: Decode, offset: int
) -> dict[str, Any] | None:
    """``choices[].logprobs`` of a completion whose text so far has ``offset`` characters."""
    if top < 0:
        return None
    rows = _rows(columns)
    texts = [decode([row[0][0]]) for row in rows]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [row[0][1] for row in rows],
        "top_logprobs": [
            {decode([token]): logprob for token, logprob in reversed(_best(row, top))}
            for row in rows
        ]
        if top
        else None,
        "text_offset": offsets,
    }
