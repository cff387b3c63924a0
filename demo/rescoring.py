"""Second look at logprobs: the same tokens once more, in one pass, on a replica that is alive."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler

from .verdict import Sample

__all__ = ["largest_difference"]


def largest_difference(
    sampler: RemoteSampler,
    samples: Iterable[Sample],
    prompts: Mapping[int, Sequence[int]],
    adapter_of: Mapping[int, str],
) -> float:
    """The largest difference between a delivered logprob and the one that scoring gives now.

    Delivered ones must be raw, as those of prompts are. ``prompts`` has the ids of each input,
    ``adapter_of`` the adapter name.
    """
    by_adapter: dict[str, list[Sample]] = {}
    for sample in samples:
        by_adapter.setdefault(adapter_of[sample.input], []).append(sample)
    largest = 0.0
    params: dict[str, Any] = {"max_tokens": 0, "prompt_logprobs": 1}
    for name, group in by_adapter.items():
        inputs = [{"input_ids": [*prompts[s.input], *s.sequence.tokens]} for s in group]
        for sample, response in zip(group, sampler.sample(inputs, params, name), strict=True):
            assert response.prompt_logprobs is not None
            again = response.prompt_logprobs[len(prompts[sample.input]) :]
            largest = max(largest, _difference(sample.sequence, again))
    return largest


def _difference(sequence: SampledSequence, again: Sequence[float | None]) -> float:
    rows = sequence.logprobs
    assert rows is not None
    delivered = np.array([row[0][1] for row in rows])
    return float(np.abs(delivered - np.array(again, np.float64)).max())
