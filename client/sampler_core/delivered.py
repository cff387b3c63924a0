"""Whether a sequence that comes to be continued has ended with the tokens that it brings.

The word that it had ended may have been lost on the way, and a caller may give back what is
complete. Pure.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from sampler_api.frames import LENGTH, RUNNING, STOP
from sampler_api.params import SamplingParams

from .stops import StopMatcher

__all__ = ["end_of_delivered"]


def end_of_delivered(
    params: SamplingParams,
    stops: Sequence[str],
    output: NDArray[np.int32],
    max_total: int,
    eos_ids: Collection[int],
    decode: Callable[[Sequence[int]], str] | None,
) -> tuple[int, str | int | None]:
    """Flag and what matched, when the last of ``output`` i32 [T] ended the sequence; else RUNNING.

    Ends before the last token do not count: whoever continued beyond them meant it. ``max_total``
    is the length at which the sequence ends; the ``stops`` are texts and need ``decode``.
    """
    count = len(output)
    if count > params.min_tokens:
        last = int(output[-1])
        if last in eos_ids and not params.ignore_eos:
            return STOP, None
        if last in (params.stop_token_ids or ()):
            return STOP, last
        if stops and decode is not None:
            before = output[:-1].tolist()
            match = StopMatcher(stops, decode, before, params.min_tokens).feed([last])
            if match is not None:
                return STOP, match.text
    return (LENGTH if count >= max_total else RUNNING), None
