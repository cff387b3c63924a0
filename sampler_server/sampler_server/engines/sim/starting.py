"""Requests become rows, or the errors that they end with. Pure."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import AdapterMissing, EngineFailed, InvalidRequest, SamplerError

from ..base import EngineRequest
from .model import VOCAB_SIZE
from .rows import Row, prompt_scores
from .settings import SimFaults
from .tokens import prefix_states, seed_keys

__all__ = ["Refused", "start_rows"]

_GOLDEN = 0x9E3779B97F4A7C15


class Refused(msgspec.Struct, gc=False):
    """A request that does not run."""

    key: int
    error: SamplerError


def start_rows(
    requests: Sequence[EngineRequest],
    weights: Mapping[str | None, int],
    secret: int,
    faults: SimFaults,
) -> tuple[list[Row], list[Refused]]:
    """The rows of requests before their first token; ``weights`` by adapter, ``secret`` is the
    process's own seed."""
    good: list[EngineRequest] = []
    refused: list[Refused] = []
    for request in requests:
        error = _refusal(request, weights, faults)
        if error is None:
            good.append(request)
        else:
            refused.append(Refused(request.key, error))
    # All ids at once; one by one only to find out whose are wrong.
    if good and not _are_ids(np.concatenate([ids for r in good for ids in _ids(r)])):
        wrong = InvalidRequest(
            f"input_ids: ids must be between 0 and {VOCAB_SIZE - 1}", "input_ids"
        )
        bad = [r for r in good if not all(map(_are_ids, _ids(r)))]
        good = [r for r in good if all(map(_are_ids, _ids(r)))]
        refused += [Refused(request.key, wrong) for request in bad]
    return _rows(good, weights, secret, faults) if good else [], refused


def _ids(request: EngineRequest) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return request.prompt_ids, request.output_ids


def _are_ids(ids: NDArray[np.int32]) -> bool:
    # As unsigned, a negative id is beyond the vocabulary.
    return int(ids.view(np.uint32).max(initial=0)) < VOCAB_SIZE


def _refusal(
    request: EngineRequest, weights: Mapping[str | None, int], faults: SimFaults
) -> SamplerError | None:
    if request.adapter not in weights:
        return AdapterMissing(f"adapter {request.adapter} is not loaded", "adapter")
    if not len(request.prompt_ids):
        return InvalidRequest("input_ids: the prompt is empty", "input_ids")
    if faults.fail_token is not None and faults.fail_token in request.prompt_ids:
        return EngineFailed(
            f"the prompt has the token {faults.fail_token}, which fails (fail_token)"
        )
    return None


def _rows(
    requests: Sequence[EngineRequest],
    weights: Mapping[str | None, int],
    secret: int,
    faults: SimFaults,
) -> list[Row]:
    prefixes = [
        np.concatenate([r.prompt_ids, r.output_ids]) if len(r.output_ids) else r.prompt_ids
        for r in requests
    ]
    empty = [weights[r.adapter] for r in requests]
    lengths = np.fromiter(map(len, prefixes), np.int64, len(prefixes))
    states = prefix_states(np.array(empty, np.uint64), np.concatenate(prefixes), lengths).tolist()
    keys = seed_keys([secret + r.key * _GOLDEN if r.seed is None else r.seed for r in requests])
    rows = []
    for request, of_weights, state, key in zip(requests, empty, states, keys.tolist(), strict=True):
        row = Row(request, of_weights, state, key, len(request.output_ids))
        if request.want_prompt_logprobs:
            k = request.params.prompt_logprobs or 0
            row.prompt = prompt_scores(of_weights, request.prompt_ids, k)
        _set_failure(row, secret, faults.fail_rate)
        rows.append(row)
    return rows


def _set_failure(row: Row, secret: int, rate: float) -> None:
    if not rate:
        return
    draw = int(seed_keys([secret ^ row.request.key])[0])
    if (draw >> 11) / (1 << 53) < rate:
        row.fail_at = row.made + draw % max(1, row.request.max_total - row.made)
