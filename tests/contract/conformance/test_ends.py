"""Section 3 of docs/semantics.md: where a sequence ends."""

from typing import Any

import numpy as np
import pytest
from tests.checks import assert_explained, prompts
from tests.reference import reference

from sampler_api.errors import InvalidRequest
from sampler_api.params import SamplingParams
from sampler_core.base import SamplerBase

REF = reference()
EOS = REF.eos_ids[0]


def long_prompt(room: int) -> list[int]:
    """A prompt that leaves ``room`` tokens of the context."""
    ids: list[int] = np.random.default_rng(0).integers(3, 1024, REF.context - room).tolist()
    return ids


@pytest.mark.rule("S3.1", "S3.2", "S2.4")
@pytest.mark.parametrize("max_tokens", [None, 9, 100])
def test_the_context_ends_what_max_tokens_does_not(
    sampler: SamplerBase, max_tokens: int | None
) -> None:
    params = {"max_tokens": max_tokens, "ignore_eos": True, "logprobs": 1}
    (sequence,) = sampler.sample({"input_ids": long_prompt(8)}, params)[0].sequences
    assert len(sequence.tokens) == 8
    assert sequence.logprobs is not None
    assert len(sequence.logprobs) == 8
    assert sequence.stop_reason == "length"


@pytest.mark.rule("S3.3")
@pytest.mark.parametrize("room", [0, -1, -500])
def test_a_prompt_that_fills_the_context_is_refused(sampler: SamplerBase, room: int) -> None:
    with pytest.raises(InvalidRequest, match="input_ids") as raised:
        sampler.sample([{"input_ids": long_prompt(room)}, {"input_ids": [5]}], {"max_tokens": 1})
    assert len(raised.value.responses[1].sequences[0].tokens) == 1


@pytest.mark.rule("S3.3")
def test_a_prompt_that_leaves_one_token_is_served(sampler: SamplerBase) -> None:
    (sequence,) = sampler.sample({"input_ids": long_prompt(1)}, None)[0].sequences
    assert len(sequence.tokens) == 1


@pytest.mark.rule("S3.4", "S3.10")
def test_the_end_token_ends_unless_it_is_ignored(sampler: SamplerBase) -> None:
    ids = {"input_ids": prompts(REF)[0]}
    bias = {"logit_bias": {EOS: 100.0}, "max_tokens": 5}
    (sequence,) = sampler.sample(ids, bias)[0].sequences
    assert (sequence.tokens, sequence.stop_reason) == ([EOS], "stop")
    (sequence,) = sampler.sample(ids, {**bias, "ignore_eos": True})[0].sequences
    assert (sequence.tokens, sequence.stop_reason) == ([EOS] * 5, "length")


@pytest.mark.rule("S3.5", "S2.5")
@pytest.mark.parametrize(
    "stops",
    [
        pytest.param({"stop_token_ids": [401, 402]}, id="stop_token_ids"),
        pytest.param({"stop": [401, 402]}, id="integers in stop"),
        pytest.param({"stop": [401], "stop_token_ids": [402]}, id="both"),
    ],
)
@pytest.mark.parametrize("token", [401, 402])
def test_stop_ids_end_a_sequence(sampler: SamplerBase, stops: dict[str, Any], token: int) -> None:
    params = {**stops, "logit_bias": {token: 100.0}, "max_tokens": 5, "ignore_eos": True}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert (sequence.tokens, sequence.stop_reason) == ([token], "stop")
    assert sequence.stop_matched == token


@pytest.mark.rule("S3.6", "S2.1", "S2.3")
def test_a_stop_string_is_found_wherever_it_falls_into_tokens(sampler: SamplerBase) -> None:
    ids = prompts(REF)[0]
    free = REF.greedy(ids, SamplingParams(temperature=0, max_tokens=24, ignore_eos=True))
    text = REF.decode(free.tokens)
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(24):
        start, size = int(rng.integers(0, len(text) - 1)), int(rng.integers(1, 9))
        stop = text[start : start + size]
        params = SamplingParams(
            temperature=0, max_tokens=24, ignore_eos=True, stop=[stop], logprobs=1
        )
        expected = REF.greedy(ids, params)
        (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
        if "\ufffd" in stop:
            continue  # the string is no text of any token
        assert sequence.tokens == expected.tokens, stop
        assert sequence.stop_matched == stop
        assert_explained(REF, ids, sequence, params)
        lengths.add(len(sequence.tokens))
    assert len(lengths) > 5


@pytest.mark.rule("S3.6")
def test_a_stop_string_may_be_split_inside_a_character(sampler: SamplerBase) -> None:
    first, second = REF.encode("é")
    params = SamplingParams(
        logit_bias={first: 100.0, second: 100.0}, stop=["éé"], max_tokens=40, seed=0, logprobs=1
    )
    responses = sampler.sample({"input_ids": prompts(REF)[0]}, params, num_samples=6)
    for sequence in responses.sequences:
        assert_explained(REF, prompts(REF)[0], sequence, params)
    assert {sequence.stop_reason for sequence in responses.sequences} >= {"stop"}


@pytest.mark.rule("S3.7")
@pytest.mark.parametrize("order", [1, -1])
def test_the_stop_string_that_begins_first_counts(sampler: SamplerBase, order: int) -> None:
    token = next(i for i in range(300, 1024) if len(REF.decode([i])) >= 4)
    text = REF.decode([token])
    stops = [text[1:3], text[0:2], text[2:4]][::order]
    params = {"stop": stops, "logit_bias": {token: 100.0}, "max_tokens": 4}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert sequence.tokens == [token]
    assert sequence.stop_matched == text[0:2]


@pytest.mark.rule("S3.8")
@pytest.mark.parametrize("stops", [{}, {"stop_token_ids": [401]}])
def test_no_end_is_drawn_before_min_tokens(sampler: SamplerBase, stops: dict[str, Any]) -> None:
    bias = {EOS: 100.0, 401: 100.0} if stops else {EOS: 100.0}
    params = SamplingParams.of(
        {"logit_bias": bias, "min_tokens": 4, "max_tokens": 9, "logprobs": 1, "seed": 1, **stops}
    )
    ids = prompts(REF)[0]
    (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
    assert len(sequence.tokens) == 5
    assert sequence.tokens[-1] in bias
    assert not bias.keys() & set(sequence.tokens[:-1])
    assert_explained(REF, ids, sequence, params)


@pytest.mark.rule("S3.8")
def test_a_stop_string_before_min_tokens_does_not_count_later(sampler: SamplerBase) -> None:
    ids = prompts(REF)[0]
    free = REF.greedy(ids, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
    early = REF.decode(free.tokens[1:3])
    for min_tokens in (0, 3, 5):
        params = SamplingParams(
            temperature=0,
            max_tokens=20,
            ignore_eos=True,
            stop=[early],
            min_tokens=min_tokens,
            logprobs=1,
        )
        expected = REF.greedy(ids, params)
        (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
        assert sequence.tokens == expected.tokens
        assert sequence.stop_matched == (early if min_tokens == 0 else expected.stop_matched)


@pytest.mark.rule("S3.9")
def test_bad_words_are_never_completed(sampler: SamplerBase) -> None:
    ids = prompts(REF)[0]
    free = REF.greedy(ids, SamplingParams(temperature=0, max_tokens=16, ignore_eos=True))
    several = REF.decode(free.tokens[3:5])
    single = REF.decode(free.tokens[6:7])
    params = SamplingParams(
        temperature=0,
        max_tokens=16,
        ignore_eos=True,
        bad_words=[several.strip(), single.strip()],
        logprobs=1,
    )
    expected = REF.greedy(ids, params)
    assert expected.tokens != free.tokens
    (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
    assert sequence.tokens == expected.tokens
    assert_explained(REF, ids, sequence, params)


@pytest.mark.rule("S3.10")
@pytest.mark.parametrize("max_tokens", [1, 2, 17])
def test_max_tokens_are_made_and_not_one_more(sampler: SamplerBase, max_tokens: int) -> None:
    params = {"max_tokens": max_tokens, "ignore_eos": True}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert (len(sequence.tokens), sequence.stop_reason) == (max_tokens, "length")
