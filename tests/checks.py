"""Assertions about sequences: each token, logprob and ending against the reference."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pytest
from tests.reference import DTYPE, TOLERANCE, Reference, Row, end_by_definition

from sampler_api.errors import LogprobsModeUnavailable
from sampler_api.params import SamplingParams
from sampler_api.results import SampledSequence
from sampler_core.base import SamplerBase

__all__ = ["FAMILIES", "PROMPTS", "assert_best", "assert_explained", "is_refused", "prompts"]

PROMPTS: Final = (
    "def parse(self, line):",
    "import os",
    "The quick brown fox jumps over the lazy dog and runs away from the message",
    "x = [1, 2, 3]\nfor item in x:\n    print(item)",
)

FAMILIES: Final[Mapping[str, dict[str, Any]]] = {
    "no options": {},
    "high temperature": {"temperature": 1.7},
    "low temperature": {"temperature": 0.4},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.3},
    "all truncations": {"temperature": 1.3, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
    "repetition penalty": {"repetition_penalty": 1.5, "top_k": 20},
    "repetition reward": {"repetition_penalty": 0.7, "top_k": 20},
    "presence penalty": {"presence_penalty": 1.5, "top_k": 8},
    "frequency penalty": {"frequency_penalty": 0.8, "top_k": 8},
    "all penalties": {
        "repetition_penalty": 1.2,
        "presence_penalty": -0.7,
        "frequency_penalty": 0.4,
        "top_p": 0.5,
    },
    "bias": {"logit_bias": {300: 4.0, 301: 4.5, 302: -5.0}},
    "likely end": {"logit_bias": {2: 3.5}},
    "min_tokens": {"logit_bias": {2: 8.0}, "min_tokens": 5},
    "min_tokens and stop ids": {
        "logit_bias": {300: 6.0, 301: 6.0},
        "stop_token_ids": [300],
        "min_tokens": 4,
    },
    "stop ids": {"stop_token_ids": [310, 311], "logit_bias": {310: 3.0, 311: 3.0}},
    "ignored end": {"logit_bias": {2: 6.0}, "ignore_eos": True},
    "bad words": {"bad_words": ["the", "e", "self"], "logit_bias": {70: 4.0}},
    "stop strings": {"stop": ["t", " s", "er"]},
    "stop string after min_tokens": {"stop": ["e", "a"], "min_tokens": 6},
    "raw logprobs": {"logprobs_mode": "raw", "temperature": 0.7, "top_k": 10},
    "candidates": {"logprobs": 5, "top_k": 8},
    "raw candidates": {"logprobs": 4, "logprobs_mode": "raw", "top_k": 2},
}
"""Parameters by what they exercise; temperature 1 unless they say otherwise."""


def prompts(reference: Reference) -> list[list[int]]:
    """Token ids of ``PROMPTS``."""
    return [reference.encode(text) for text in PROMPTS]


def is_refused(sampler: SamplerBase, params: SamplingParams) -> bool:
    """Whether its engine has not these logprobs; if so it has just said that (S4.11)."""
    if params.logprobs_mode in (None, *sampler._backend.card().logprobs_modes):
        return False
    with pytest.raises(LogprobsModeUnavailable) as caught:
        sampler.sample({"input_ids": [5]}, params)
    assert caught.value.field == "logprobs_mode"
    return True


def assert_best(
    reference: Reference,
    prompt: Sequence[int],
    tokens: Sequence[int],
    params: SamplingParams,
    adapter: str | None = None,
) -> None:
    """Tokens at temperature 0 are those of whole forward passes; in 16 bits one that is nearly
    as good may be taken at each place."""
    expected = reference.greedy(prompt, params, adapter).tokens
    if DTYPE == "float32":
        assert tokens == expected
        return
    assert len(tokens) == len(expected) or tokens[-1] in reference.eos_ids
    rows = reference.rows(prompt, tokens, params, adapter)
    for position, (_, changed, _) in enumerate(rows):
        best = changed.max()
        assert changed[tokens[position]] >= best - TOLERANCE, f"not the best at {position}"


def assert_explained(
    reference: Reference,
    prompt: Sequence[int],
    sequence: SampledSequence,
    params: SamplingParams,
    adapter: str | None = None,
) -> None:
    """A sequence is one that its parameters allow: every token could be drawn (at temperature 0:
    was the best), every logprob is right, and it ended where it had to."""
    tokens = sequence.tokens
    assert sequence.error is None, sequence.error
    limit = reference.limit(prompt, params)
    for length in range(1, len(tokens) + 1):
        end = end_by_definition(tokens[:length], params, reference.eos_ids, limit, reference.decode)
        if length < len(tokens):
            assert end is None, f"should have ended after {length} of {len(tokens)} tokens: {end}"
        else:
            assert end == (sequence.stop_reason, sequence.stop_matched)
    rows = reference.rows(prompt, tokens, params, adapter)
    for position, (raw, changed, shaped) in enumerate(rows):
        token = tokens[position]
        if params.is_greedy:
            assert changed[token] >= changed.max() - TOLERANCE, f"not the best at {position}"
        else:
            assert np.isfinite(shaped[token]), f"{token} could not be drawn at {position}"
        if params.logprobs is not None:
            assert sequence.logprobs is not None
            expected = raw if params.logprobs_mode == "raw" else shaped
            _assert_row(sequence.logprobs[position], token, expected, max(1, params.logprobs))
    if params.logprobs is None:
        assert sequence.logprobs is None
    else:
        assert sequence.logprobs is not None
        assert len(sequence.logprobs) == len(tokens)


def _assert_row(got: Sequence[tuple[int, float]], token: int, expected: Row, k: int) -> None:
    assert got[0][0] == token
    ids = [candidate for candidate, _ in got]
    assert len(set(ids)) == len(ids)
    others = np.delete(expected, token)
    best = np.sort(others[np.isfinite(others)])[::-1][: k - 1]
    values = np.array([value for _, value in got])
    # Candidates that are nearly equal may stand in either order: their values say who they are.
    np.testing.assert_allclose(values, [expected[token], *best], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(values, expected[ids], rtol=0, atol=TOLERANCE)
