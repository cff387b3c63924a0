"""Partial results given back are continued, not restarted."""

from collections.abc import Iterator

import pytest

from sampler_api import SampledSequence, SamplingParams
from sampler_api.errors import InvalidRequest
from sampler_core.base import SamplerBase
from sampler_server.engines.sim import SimEngine, SimSettings
from sampler_server.local import LocalBackend

PROMPT = {"input_ids": [11, 12, 13, 14]}


@pytest.fixture
def sampler() -> Iterator[SamplerBase]:
    class Local(SamplerBase):
        """A sampler over the sim engine of this process."""

    with Local(LocalBackend(lambda: SimEngine(SimSettings()))) as made:
        yield made


def sampled(
    sampler: SamplerBase, length: int, resume: SampledSequence | None = None, logprobs: int = 1
) -> SampledSequence:
    params = SamplingParams(max_tokens=length, seed=5, logprobs=logprobs)
    return sampler.sample(PROMPT, params, resume=resume).sequences[0]


@pytest.mark.parametrize("logprobs", [1, 3])
@pytest.mark.parametrize("cut", [1, 7, 31])
def test_a_resumed_sequence_equals_the_uncut_one(
    sampler: SamplerBase, cut: int, logprobs: int
) -> None:
    whole = sampled(sampler, 32, logprobs=logprobs)
    part = sampled(sampler, cut, logprobs=logprobs)
    resumed = sampled(sampler, 32, resume=part, logprobs=logprobs)
    assert resumed.tokens == whole.tokens
    assert resumed.logprobs == whole.logprobs
    assert [(s.start, s.end) for s in resumed.segments] == [(0, cut), (cut, 32)]


def test_resume_refuses_other_logprobs_than_before(sampler: SamplerBase) -> None:
    part = sampled(sampler, 4)
    with pytest.raises(InvalidRequest, match="resume: the sequence has no 3 logprobs"):
        sampled(sampler, 8, resume=part, logprobs=3)


def test_resume_needs_one_sequence_per_input(sampler: SamplerBase) -> None:
    part = sampled(sampler, 4)
    with pytest.raises(InvalidRequest, match="resume: 1 sequences for 2 inputs"):
        sampler.sample([PROMPT, PROMPT], resume=[part])
