"""From vLLM's outputs to columns: bytes that go over the wire as they are."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import EngineFailed

from ..base import Delta, Finish, PromptScores

__all__ = ["delta_of", "scores_of"]

_FINISHES: Final[dict[str, Finish]] = {"stop": "stop", "length": "length", "abort": "abort"}


def delta_of(key: int, completion: Any, k: int, prompt: PromptScores | None = None) -> Delta:
    """The delta of a ``CompletionOutput`` with new tokens only; ``k`` logprobs a token (0: none).

    Raises EngineFailed when logprobs of a token are missing, or when vLLM reports an error.
    """
    tokens = completion.token_ids
    delta = Delta(key, np.array(tokens, "<i4").tobytes(), prompt=prompt)
    if k and tokens:
        flat = completion.logprobs
        starts = [] if flat is None else flat.start_indices
        if len(starts) != len(tokens):
            raise EngineFailed(f"vLLM gave {len(starts)} logprobs for {len(tokens)} tokens")
        first = np.array(starts, np.int64)
        values = np.array(flat.logprobs, "<f4")
        chosen = values[first]
        if not np.isfinite(chosen).all():
            raise EngineFailed("vLLM gave no finite logprob for a token that it drew")
        delta.logprobs = chosen.tobytes()
        if k > 1:
            ids = np.array(flat.token_ids, "<i4")
            top_ids, top_values = _best(ids, values, first, np.array(flat.end_indices), k)
            delta.top_ids, delta.top_logprobs = top_ids.tobytes(), top_values.tobytes()
    reason = completion.finish_reason
    if reason is not None:
        finish = _FINISHES.get(reason)
        if finish is None:
            raise EngineFailed(f"vLLM ended the sequence with {reason!r}")
        delta.finish = finish
    return delta


def scores_of(flat: Any, k: int) -> PromptScores:
    """The scores of ``RequestOutput.prompt_logprobs``: the prompt's token, then the ``k`` best.

    Raises EngineFailed when some are missing.
    """
    starts, ends = np.array(flat.start_indices), np.array(flat.end_indices)
    size = len(starts)
    if size and not (ends[1:] - starts[1:] >= 1 + k).all():
        raise EngineFailed("vLLM gave too few logprobs for the prompt")
    values = np.array(flat.logprobs, "<f4")
    logprobs = np.full(size, np.nan, "<f4")
    logprobs[1:] = values[starts[1:]]
    top_ids = np.full((size, k), -1, "<i4")
    top_values = np.full((size, k), np.nan, "<f4")
    if k and size > 1:
        places = starts[1:, None] + 1 + np.arange(k)
        top_ids[1:] = np.array(flat.token_ids, "<i4")[places]
        top_values[1:] = values[places]
    return PromptScores(logprobs.tobytes(), top_ids.tobytes(), top_values.tobytes(), k)


def _best(
    ids: NDArray[np.int32],
    values: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids i32 [T, k] and logprobs f32 [T, k]: the drawn token, then the best others.

    vLLM gives the drawn token and the k best, among which it may be again; in outputs that it has
    put together, once.
    """
    top_ids = np.full((len(starts), k), -1, "<i4")
    top_values = np.full((len(starts), k), np.nan, "<f4")
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        others = slice(start + 1, end)
        is_other = (ids[others] != ids[start]) & (values[others] > -np.inf)
        place = np.concatenate([[start], start + 1 + np.flatnonzero(is_other)])[:k]
        top_ids[row, : len(place)] = ids[place]
        top_values[row, : len(place)] = values[place]
    return top_ids, top_values
