"""An engine's delta becomes part of its stream. Pure."""

import numpy as np

from sampler_api.errors import EngineFailed
from sampler_api.frames import ERROR, LENGTH, RUNNING, STOP
from sampler_core.stops import StopMatcher

from .engines.base import Delta
from .streams import Stream

__all__ = ["append"]


def append(stream: Stream, delta: Delta, now: float) -> int:
    """Append ``delta``; the flag that the stream has after it, which the caller sets.

    A stop string cuts tokens and logprobs behind the token that completes it, and wins over what
    the engine says of the end. Raises ValueError for columns of unequal length, and then has
    appended nothing: they would break the frame that carries them, and with it the whole session.
    """
    tokens = delta.tokens
    flag = RUNNING
    if tokens:
        columns = stream.columns
        k = stream.k
        if k == 1:
            if len(delta.logprobs) != len(tokens):
                raise ValueError(f"{len(delta.logprobs)} bytes of logprobs for {len(tokens)}")
            columns.logprobs += delta.logprobs
        elif k:
            if not len(delta.top_ids) == len(delta.top_logprobs) == k * len(tokens):
                raise ValueError(f"rows of {len(tokens)} bytes of tokens do not have {k} items")
            columns.top_ids += delta.top_ids
            columns.top_logprobs += delta.top_logprobs
        columns.tokens += tokens
        stream.since = now
        if stream.matcher is not None:
            flag = _match(stream, stream.matcher, tokens)
    if delta.prompt is not None:
        stream.scores = delta.prompt
    if flag == RUNNING and delta.finish is not None:
        flag = _flag_of(stream, delta)
    return flag


def _match(stream: Stream, matcher: StopMatcher, tokens: bytes) -> int:
    match = matcher.feed(np.frombuffer(tokens, np.int32).tolist())
    if match is None:
        return RUNNING
    stream.columns.truncate(len(stream.columns) - (len(tokens) >> 2) + match.keep)
    stream.matched = match.text
    return STOP


def _flag_of(stream: Stream, delta: Delta) -> int:
    if delta.finish == "length":
        return LENGTH
    if delta.finish == "stop":
        if stream.stop_ids and len(stream.columns):
            last = int(stream.columns.token_ids[-1])
            if last in stream.stop_ids:
                stream.matched = last
        return STOP
    # Cancelled streams are gone from the table, so an abort here is the engine's own.
    stream.error = delta.error or EngineFailed(
        "the engine ended the sequence before it was complete"
    )
    return ERROR
