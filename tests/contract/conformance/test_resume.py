"""Rule S11.7 of docs/semantics.md: sequences that are given back go on from their tokens."""

from typing import Any

import pytest
from tests.checks import assert_best, assert_explained, prompts
from tests.reference import reference
from tests.tiny_adapters import tiny_adapter

from sampler_api.errors import InvalidRequest
from sampler_api.params import SamplingParams
from sampler_api.results import SampledSequence
from sampler_core.base import SamplerBase

REF = reference()
IDS = prompts(REF)[0]


def begun(sampler: SamplerBase, params: SamplingParams, length: int) -> SampledSequence:
    """The first tokens of a sequence, as a cancelled stream gives them back."""
    (whole,) = sampler.sample({"input_ids": IDS}, params)[0].sequences
    assert len(whole.tokens) > length
    assert whole.logprobs is not None
    return SampledSequence("abort", whole.tokens[:length], list(whole.logprobs)[:length])


@pytest.mark.rule("S11.7", "S7.1")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_a_resumed_sequence_ends_as_the_whole_one(
    sampler: SamplerBase, temperature: float, k: int
) -> None:
    params = SamplingParams(
        temperature=temperature, max_tokens=12, logprobs=k, seed=7, frequency_penalty=0.5
    )
    (whole,) = sampler.sample({"input_ids": IDS}, params)[0].sequences
    for length in (1, 5, len(whole.tokens) - 1):
        part = begun(sampler, params, length)
        (again,) = sampler.sample({"input_ids": IDS}, params, resume=part)[0].sequences
        assert_explained(REF, IDS, again, params)
        assert again.tokens[:length] == whole.tokens[:length]
        if not again.segments[-1].reproducible:
            continue  # other draws of the same distribution, and marked as such (S7.5)
        assert again.tokens == whole.tokens
        assert (again.stop_reason, again.decoded) == (whole.stop_reason, whole.decoded)
        assert again.new_input_feature == whole.new_input_feature


@pytest.mark.rule("S7.4", "S11.7")
@pytest.mark.parametrize("end", ["a stop string", "a stop id", "the limit"])
def test_what_had_ended_when_it_was_given_back_is_complete(sampler: SamplerBase, end: str) -> None:
    free = SamplingParams(temperature=0, max_tokens=12, logprobs=1, ignore_eos=True)
    (longer,) = sampler.sample({"input_ids": IDS}, free)[0].sequences
    ends: dict[str, dict[str, Any]] = {
        "a stop string": {"stop": REF.decode(longer.tokens[5:6])},
        "a stop id": {"stop_token_ids": [longer.tokens[5]]},
        "the limit": {"max_tokens": 6},
    }
    params = {"temperature": 0, "max_tokens": 12, "logprobs": 1, "ignore_eos": True, **ends[end]}
    (whole,) = sampler.sample({"input_ids": IDS}, params)[0].sequences
    part = SampledSequence("abort", whole.tokens, list(whole.logprobs or ()))
    (again,) = sampler.sample({"input_ids": IDS}, params, resume=part)[0].sequences
    assert again.tokens == whole.tokens
    assert (again.stop_reason, again.stop_matched) == (whole.stop_reason, whole.stop_matched)
    assert again.logprobs == whole.logprobs


@pytest.mark.rule("S11.7", "S11.4")
def test_what_a_cancelled_stream_gives_can_be_given_back(sampler: SamplerBase) -> None:
    params = SamplingParams(temperature=0, max_tokens=1900, ignore_eos=True, logprobs=1)
    inputs = [{"input_ids": IDS}, {"input_ids": [5 + i % 900 for i in range(REF.context - 2)]}]
    stream = sampler.sample_stream(inputs, params)
    assert next(stream)[0] == 1
    ((_, response),) = stream.cancel(partial=True)
    (part,) = response.sequences
    more = SamplingParams(
        temperature=0, max_tokens=len(part.tokens) + 6, ignore_eos=True, logprobs=1
    )
    (again,) = sampler.sample(inputs[0], more, resume=[part])[0].sequences
    assert again.tokens[: len(part.tokens)] == part.tokens
    assert len(again.tokens) == len(part.tokens) + 6
    place = 0
    for segment in again.segments:
        assert segment.start == place
        place = segment.end
    assert place == len(again.tokens)


@pytest.mark.rule("S11.7", "S10.8")
def test_a_sequence_may_go_on_under_another_adapter(sampler: SamplerBase) -> None:
    bound = sampler.add_adapter_to_model("resumed", tiny_adapter("a1"))
    params = SamplingParams(temperature=0, max_tokens=10, logprobs=1, ignore_eos=True)
    (whole,) = sampler.sample({"input_ids": IDS}, params)[0].sequences
    assert whole.logprobs is not None
    part = SampledSequence(
        "abort", whole.tokens[:4], list(whole.logprobs)[:4], segments=whole.segments
    )
    (again,) = sampler.sample({"input_ids": IDS}, params, "resumed", resume=part)[0].sequences
    assert again.tokens[:4] == whole.tokens[:4]
    rest = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    assert_best(REF, [*IDS, *whole.tokens[:4]], again.tokens[4:], rest, "a1")
    assert again.segments[-1].start == 4
    assert again.segments[-1].revision is not None
    assert again.segments[-1].revision.adapter == bound.digest


@pytest.mark.rule("S11.7", "S9.3")
@pytest.mark.parametrize(
    ("resume", "more"),
    [
        pytest.param(5, {}, id="a number"),
        pytest.param([None, None], {}, id="too many"),
        pytest.param(["text"], {}, id="a text"),
        pytest.param(SampledSequence("abort", [5]), {"num_samples": 2}, id="several samples"),
        pytest.param(SampledSequence("abort", [5]), {}, id="a sequence without logprobs"),
        pytest.param(SampledSequence("abort", [99999], [[(99999, -1.0)]]), {}, id="no token"),
    ],
)
def test_what_is_no_sequence_is_refused(
    sampler: SamplerBase, resume: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sampler.sample({"input_ids": IDS}, {"max_tokens": 4, "logprobs": 1}, resume=resume, **more)
    assert raised.value.field in ("resume", "output_ids")


@pytest.mark.rule("S11.7", "S7.3", "S9.3")
@pytest.mark.parametrize(
    "max_tokens",
    [
        pytest.param(8, id="to go on and have prompt logprobs is refused"),
        pytest.param(0, id="to score only is refused"),
    ],
)
def test_prompt_logprobs_of_a_sequence_that_has_begun(
    sampler: SamplerBase, max_tokens: int
) -> None:
    inputs = [{"input_ids": IDS}, {"input_ids": IDS[:-1]}]
    params = {"temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "prompt_logprobs": 2}
    part = begun(sampler, SamplingParams(temperature=0, max_tokens=8, logprobs=1), 3)
    refused, scored = sampler.sample(inputs, params, resume=[part, None], on_error="return")
    (sequence,) = refused.sequences
    assert isinstance(sequence.error, InvalidRequest)
    assert sequence.error.field == "resume"
    assert "score the prompt in a call of its own" in str(sequence.error)
    # What has no token yet is begun, with its scores.
    assert len(scored.prompt_logprobs or ()) == len(scored.topk_prompt_logprobs or ()) > 0
    empty = SampledSequence("abort", [], [])
    (again,) = sampler.sample(inputs[1], params, resume=empty)
    found, expected = (each.prompt_logprobs or [] for each in (again, scored))
    assert found[1:] == pytest.approx(expected[1:], abs=1e-4)
    assert len(found) == len(IDS) - 1
