"""Sequences that a caller gives back to be continued: the partial results of a cancelled stream."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from sampler_api.columns import Columns
from sampler_api.errors import InvalidRequest
from sampler_api.logprobs import LogprobRows
from sampler_api.params import SamplingParams
from sampler_api.results import SampledSequence, Segment

from .groups import ChildWork

__all__ = ["check_scores", "preload", "resumed_sequences"]


def resumed_sequences(resume: Any, inputs: int, num_samples: int) -> list[SampledSequence | None]:
    """One sequence or ``None`` per input. Raises InvalidRequest that names ``resume``."""
    if resume is None:
        return [None] * inputs
    if num_samples != 1:
        raise InvalidRequest(
            "resume: needs num_samples=1; give each sequence as its own input", "resume"
        )
    if not isinstance(resume, SampledSequence | Sequence) or isinstance(resume, str):
        raise InvalidRequest("resume: must be a sequence of a sampler, or one per input", "resume")
    found = [resume] if isinstance(resume, SampledSequence) else list(resume)
    if len(found) != inputs:
        raise InvalidRequest(f"resume: {len(found)} sequences for {inputs} inputs", "resume")
    for item in found:
        if item is not None and not isinstance(item, SampledSequence):
            raise InvalidRequest("resume: must hold sequences that a sampler returned", "resume")
    return found


def check_scores(sequence: SampledSequence, params: SamplingParams) -> None:
    """Raises InvalidRequest when prompt logprobs are asked for of a sequence that has begun.

    They come before the first token and are not computed again behind it; in silence there would
    be none.
    """
    if params.prompt_logprobs is not None and len(sequence.token_ids):
        raise InvalidRequest(
            f"resume: the sequence has {len(sequence.token_ids)} tokens already, behind which "
            "prompt_logprobs are not computed; leave prompt_logprobs out, and score the prompt "
            "in a call of its own (max_tokens=0, without resume)",
            "resume",
        )


def preload(child: ChildWork, sequence: SampledSequence, vocab_size: int) -> None:
    """Put a sequence's tokens, logprobs and segments into a child that has not begun.

    Raises InvalidRequest when the call asks for other logprobs than the sequence has, or a token is
    outside the vocabulary.
    """
    outside = sequence.token_ids.astype(np.uint64) >= vocab_size
    if outside.any():
        position = int(outside.argmax())
        raise InvalidRequest(
            f"resume: token {int(sequence.token_ids[position])} at position {position} is outside "
            f"the vocabulary (0 to {vocab_size - 1})",
            "resume",
        )
    columns = Columns(child.columns.k)
    if columns.k and len(sequence.token_ids):
        ids, values = _arrays(sequence.logprobs, columns.k)
        width = 1 if ids.ndim == 1 else ids.shape[1]
        if width != columns.k or len(ids) != len(sequence.token_ids):
            raise InvalidRequest(
                f"resume: the sequence has no {columns.k} logprobs for each of its tokens; ask for "
                "as many as before",
                "resume",
            )
        if columns.k == 1:
            columns.logprobs += values.astype(np.float32).tobytes()
        else:
            columns.top_ids += ids.astype(np.int32).tobytes()
            columns.top_logprobs += values.astype(np.float32).tobytes()
    columns.tokens += sequence.token_ids.astype(np.int32).tobytes()
    if columns.tokens:
        child.columns.extend(columns)
    child.segments = tuple(_within(sequence.segments, len(columns)))
    child.started = child.given = len(columns)


def _within(segments: Sequence[Segment], length: int) -> Iterator[Segment]:
    """Those of the first ``length`` tokens: a caller may give back fewer than came."""
    for segment in segments:
        if segment.start < length:
            yield msgspec.structs.replace(segment, end=min(segment.end, length))


def _arrays(rows: LogprobRows | Sequence[Any] | None, k: int) -> tuple[Any, Any]:
    """Ids and logprobs of the rows; plain lists that truncation made shorter than k are filled."""
    if isinstance(rows, LogprobRows):
        return rows.ids, rows.values
    filled = [[*row, *[(-1, np.nan)] * (k - len(row))] for row in rows or ()]
    if any(len(row) != k for row in filled):
        return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    table = np.array(filled, np.float64).reshape(len(filled), k, 2)
    ids, values = table[..., 0].astype(np.int32), table[..., 1].astype(np.float32)
    return (ids[:, 0], values[:, 0]) if k == 1 else (ids, values)
