"""Sections 4 and 8 of docs/semantics.md: logprobs of tokens and of prompts, and scoring."""

from typing import Any

import numpy as np
import pytest
from tests.checks import FAMILIES, assert_explained, is_refused, prompts
from tests.fake_backend import RecordingBackend
from tests.reference import TOLERANCE, reference

from sampler_api.columns import Columns
from sampler_api.errors import EngineError
from sampler_api.frames import LENGTH
from sampler_api.params import SamplingParams
from sampler_core.base import SamplerBase

REF = reference()
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Parse."},
    {"role": "assistant", "content": "Done."},
]


@pytest.mark.rule("S4.1", "S4.3", "S4.8", "S4.11")
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_and_logprob_is_that_of_plain_forward_passes(
    sampler: SamplerBase, family: str, temperature: float
) -> None:
    params = SamplingParams.of(
        {"temperature": temperature, "max_tokens": 20, "logprobs": 1, "seed": 5, **FAMILIES[family]}
    )
    if temperature == 0:
        params.temperature = 0.0
    if is_refused(sampler, params):
        return
    texts = prompts(REF)
    for ids, response in zip(
        texts, sampler.sample([{"input_ids": ids} for ids in texts], params), strict=True
    ):
        assert_explained(REF, ids, response.sequences[0], params)


@pytest.mark.rule("S4.2", "S4.8", only=("engine-torch",))
@pytest.mark.parametrize("temperature", [0, 0.6])
def test_raw_logprobs_are_of_untouched_logits(sampler: SamplerBase, temperature: float) -> None:
    ids = prompts(REF)[0]
    changes: dict[str, Any] = {
        "temperature": temperature,
        "repetition_penalty": 1.4,
        "presence_penalty": 0.5,
        "logit_bias": {300: 3.0},
        "top_p": 0.9,
    }
    params = {"max_tokens": 12, "logprobs": 1, "logprobs_mode": "raw", "seed": 1, **changes}
    (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
    raw = [row for row, _, _ in REF.rows(ids, sequence.tokens, SamplingParams())]
    assert sequence.logprobs is not None
    got = [row[0][1] for row in sequence.logprobs]
    expected = [row[token] for row, token in zip(raw, sequence.tokens, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.rule("S4.4")
@pytest.mark.parametrize("k", [0, 1])
def test_rows_of_one_pair(sampler: SamplerBase, k: int) -> None:
    params = {"max_tokens": 5, "logprobs": k, "ignore_eos": True}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert sequence.logprobs is not None
    assert [len(row) for row in sequence.logprobs] == [1] * 5
    assert [row[0][0] for row in sequence.logprobs] == sequence.tokens
    pair = sequence.logprobs[0][0]
    assert (type(pair), type(pair[0]), type(pair[1])) == (tuple, int, float)
    assert pair[1] <= 0


@pytest.mark.rule("S4.5")
@pytest.mark.parametrize("k", [2, 7, 40])
@pytest.mark.parametrize("mode", ["processed", "raw"])
def test_candidates_follow_the_sampled_token(sampler: SamplerBase, k: int, mode: str) -> None:
    ids = prompts(REF)[1]
    # Hot enough that the sampled token is rarely among the best.
    params = SamplingParams.of(
        {
            "max_tokens": 12,
            "logprobs": k,
            "logprobs_mode": mode,
            "temperature": 2.0,
            "seed": 3,
            "ignore_eos": True,
        }
    )
    if is_refused(sampler, params):
        return
    (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
    assert sequence.logprobs is not None
    assert [len(row) for row in sequence.logprobs] == [k] * 12
    for row in sequence.logprobs:
        others = [value for _, value in row[1:]]
        assert others == sorted(others, reverse=True)
    assert_explained(REF, ids, sequence, params)


@pytest.mark.rule("S4.5")
def test_truncated_candidates_are_left_out(sampler: SamplerBase) -> None:
    params = {"max_tokens": 6, "logprobs": 8, "top_k": 3, "ignore_eos": True, "seed": 1}
    (sequence,) = sampler.sample({"input_ids": prompts(REF)[0]}, params)[0].sequences
    assert sequence.logprobs is not None
    for row in sequence.logprobs:
        assert len(row) == 3
        assert abs(sum(np.exp(value) for _, value in row) - 1) < 1e-4


@pytest.mark.rule("S4.6", "S4.7", "S4.8")
@pytest.mark.parametrize("k", [0, 1, 5, 64])
@pytest.mark.parametrize("max_tokens", [0, 4])
def test_prompt_logprobs_are_raw(sampler: SamplerBase, k: int, max_tokens: int) -> None:
    texts = prompts(REF)
    params = {
        "max_tokens": max_tokens,
        "prompt_logprobs": k,
        "temperature": 0.3,
        "top_k": 2,
        "repetition_penalty": 1.7,
        "logit_bias": {300: 5.0},
    }
    responses = sampler.sample([{"input_ids": ids} for ids in texts], params, num_samples=2)
    for ids, response in zip(texts, responses, strict=True):
        rows = REF.prompt_logprobs(ids)
        scores = response.prompt_logprobs
        assert scores is not None
        assert len(scores) == len(ids)
        assert scores[0] is None
        expected = [row[token] for row, token in zip(rows, ids[1:], strict=True)]
        np.testing.assert_allclose(scores[1:], expected, rtol=0, atol=TOLERANCE)  # type: ignore[arg-type]
        top = response.topk_prompt_logprobs
        if k == 0:
            assert top is None
            continue
        assert top is not None
        assert len(top) == len(ids)
        assert top[0] is None
        for row, candidates in zip(rows, top[1:], strict=True):
            assert candidates is not None
            values = [value for _, value in candidates]
            assert values == sorted(values, reverse=True)
            assert len({token for token, _ in candidates}) == len(candidates) == k
            np.testing.assert_allclose(values, np.sort(row)[::-1][:k], rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(
                values, row[[token for token, _ in candidates]], rtol=0, atol=TOLERANCE
            )


@pytest.mark.rule("S4.6")
def test_a_prompt_of_one_token_has_no_score(sampler: SamplerBase) -> None:
    (response,) = sampler.sample({"input_ids": [5]}, {"max_tokens": 1, "prompt_logprobs": 2})
    assert response.prompt_logprobs == [None]
    assert response.topk_prompt_logprobs == [None]


@pytest.mark.rule("S4.6")
def test_nobody_gets_prompt_logprobs_unasked(sampler: SamplerBase) -> None:
    (response,) = sampler.sample({"input_ids": [5, 6]}, {"max_tokens": 1, "logprobs": 1})
    assert response.prompt_logprobs is None
    assert response.topk_prompt_logprobs is None


@pytest.mark.rule("S4.9")
def test_a_missing_logprob_is_an_error() -> None:
    backend = RecordingBackend(answers=False)

    def submit(groups: Any) -> None:
        for group in groups:
            columns = Columns(1)
            columns.tokens += np.array([5, 6], np.int32).tobytes()
            columns.logprobs += np.array([-1.0], np.float32).tobytes()
            group.children[0].columns.extend(columns)
            backend.end(group, LENGTH)

    backend.submit = submit  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="logprobs"):
        SamplerBase(backend).sample({"input_ids": [5]}, {"logprobs": 1})
    (sequence,) = (
        SamplerBase(backend)
        .sample({"input_ids": [5]}, {"logprobs": 1}, on_error="return")
        .sequences
    )
    assert sequence.stop_reason == "error"
    assert isinstance(sequence.error, EngineError)


@pytest.mark.rule("S4.10")
@pytest.mark.parametrize("truncation", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_truncated_logprobs_are_warned_of_once(
    caplog: pytest.LogCaptureFixture, truncation: dict[str, Any]
) -> None:
    sampler = SamplerBase(RecordingBackend())
    quiet: list[dict[str, Any]] = [
        {"logprobs": 1},
        truncation,
        {"logprobs": 1, "logprobs_mode": "raw", **truncation},
        {"logprobs": 1, "temperature": 0, **truncation},
    ]
    for params in quiet:
        sampler.sample({"input_ids": [5]}, params)
    assert caplog.messages == []
    for _ in range(3):
        sampler.sample({"input_ids": [5]}, {"logprobs": 1, **truncation})
    (message,) = caplog.messages
    assert "raw" in message
    assert "mask" in message


@pytest.mark.rule("S8.1", "S4.6")
@pytest.mark.parametrize("logprobs", [None, 1])
def test_scoring_generates_nothing(sampler: SamplerBase, logprobs: int | None) -> None:
    ids = prompts(REF)[2]
    labels = [*ids[1:], -100]
    given = {"input_ids": ids, "labels": labels, "user_data": [("a", "1")]}
    params = {"max_tokens": 0, "prompt_logprobs": 3, "logprobs": logprobs}
    (response,) = sampler.sample(given, params)
    (sequence,) = response.sequences
    assert (sequence.tokens, sequence.decoded) == ([], None)
    assert sequence.stop_reason == "length"
    assert sequence.logprobs == (None if logprobs is None else [])
    assert sequence.new_input_feature is not None
    assert sequence.new_input_feature["input_ids"] == ids
    assert sequence.new_input_feature["labels"] == labels
    assert sequence.new_input_feature["user_data"] == [("a", "1")]
    assert response.prompt_logprobs is not None
    assert len(response.prompt_logprobs) == len(ids)
    assert response.usage is not None
    assert response.usage.completion_tokens == 0


@pytest.mark.rule("S8.1")
def test_nothing_is_generated_without_scores_too(sampler: SamplerBase) -> None:
    (response,) = sampler.sample({"input_ids": [5, 6]}, {"max_tokens": 0}, num_samples=3)
    assert [sequence.tokens for sequence in response.sequences] == [[], [], []]
    assert response.prompt_logprobs is None


@pytest.mark.rule("S8.2")
def test_a_scored_conversation_gets_no_message(sampler: SamplerBase) -> None:
    (response,) = sampler.sample({"messages": MESSAGES}, {"max_tokens": 0, "prompt_logprobs": 1})
    feature = response.sequences[0].new_input_feature
    assert feature is not None
    assert feature["messages"] == MESSAGES
    assert feature["input_ids"] == response.prompt_token_ids
    trained = [label for label in feature["labels"] if label != -100]
    assert "Done." in REF.decode(trained)
