"""Sections 5 and 6 of docs/semantics.md: what is drawn, and seeds."""

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.checks import FAMILIES, assert_explained, prompts
from tests.fake_backend import RecordingBackend
from tests.reference import Reference, reference
from tests.samplers import SamplerKinds

from sampler_api.params import SamplingParams
from sampler_api.results import Responses
from sampler_core.base import SamplerBase

REF = reference()
HOT: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "temperature": 1.3}


def tokens_of(responses: Responses) -> list[list[int]]:
    return [sequence.tokens for sequence in responses.sequences]


@pytest.mark.rule("S5.1", "S4.8")
@pytest.mark.parametrize("family", ["no options", "bias", "bad words", "all penalties"])
def test_at_temperature_0_the_best_token_is_taken(sampler: SamplerBase, family: str) -> None:
    params = SamplingParams.of({**FAMILIES[family], "max_tokens": 32, "logprobs": 1})
    params.temperature = 0.0
    texts = prompts(REF)
    for ids, response in zip(
        texts, sampler.sample([{"input_ids": ids} for ids in texts], params), strict=True
    ):
        expected = REF.greedy(ids, params)
        (sequence,) = response.sequences
        assert sequence.tokens == expected.tokens
        assert sequence.logprobs is not None
        np.testing.assert_allclose(
            [row[0][1] for row in sequence.logprobs], expected.logprobs, rtol=0, atol=1e-4
        )
        assert sequence.stop_reason == expected.stop_reason


@pytest.mark.rule("S5.2", "S5.3", "S5.4", "S5.5", "S5.6")
@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"repetition_penalty": 1.9}, id="repetition penalty"),
        pytest.param({"repetition_penalty": 0.6}, id="repetition reward"),
        pytest.param({"presence_penalty": 2.0}, id="presence penalty"),
        pytest.param({"frequency_penalty": 1.1}, id="frequency penalty"),
        pytest.param(
            {
                "logit_bias": {300: 6.0, 301: -3.0},
                "repetition_penalty": 1.6,
                "presence_penalty": 0.3,
            },
            id="bias before penalties",
        ),
        pytest.param({"temperature": 0.5, "min_p": 0.3}, id="min_p after temperature"),
        pytest.param({"top_k": 4, "top_p": 0.5}, id="top_p of what top_k left"),
        pytest.param({"min_p": 0.5, "top_p": 0.5}, id="top_p of what min_p left"),
        pytest.param({"min_p": 0.2, "top_k": 6, "top_p": 0.9, "temperature": 2.0}, id="all"),
    ],
)
def test_the_distribution_is_the_reference_s(sampler: SamplerBase, params: dict[str, Any]) -> None:
    # As many candidates as there may be: the rows are the whole distribution.
    checked = SamplingParams.of(
        {"max_tokens": 10, "logprobs": 1024, "seed": 2, "ignore_eos": True, **params}
    )
    ids = prompts(REF)[3]
    for sequence in sampler.sample({"input_ids": ids}, checked, num_samples=2).sequences:
        assert_explained(REF, ids, sequence, checked)


def chi_square(counts: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> float:
    expected = shares * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.rule("S5.7")
@pytest.mark.parametrize(
    "more",
    [{"top_k": 6}, {"top_k": 6, "temperature": 0.5}, {"top_k": 6, "repetition_penalty": 1.8}],
)
def test_draws_follow_the_distribution(sampler: SamplerBase, more: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=1, seed=11, **more)
    ids = prompts(REF)[3]
    responses = sampler.sample({"input_ids": ids}, params, num_samples=1200)
    drawn = np.array([tokens[0] for tokens in tokens_of(responses)])
    _, _, logprobs = REF.rows(ids, [0], params)[0]
    kept = np.flatnonzero(np.isfinite(logprobs))
    counts = np.array([(drawn == token).sum() for token in kept])
    assert counts.sum() == 1200
    # 5 degrees of freedom: beyond this once in a million.
    assert chi_square(counts, np.exp(logprobs[kept])) < 37


@pytest.mark.rule("S6.1")
def test_a_seed_decides_whatever_shares_the_batch(sampler: SamplerBase) -> None:
    texts = prompts(REF)
    params = {**HOT, "seed": 42}
    first = {"input_ids": texts[0]}
    alone = tokens_of(sampler.sample(first, params, num_samples=2))
    crowd = [first, *({"input_ids": ids} for ids in texts * 3)]
    again = tokens_of(sampler.sample(crowd, params, num_samples=2))
    assert again[:2] == alone
    assert tokens_of(sampler.sample(crowd, params, num_samples=2)) == again
    # More children, or other options of the length, do not move the draws of the first ones.
    assert tokens_of(sampler.sample(first, {**params, "max_tokens": 5}, num_samples=4))[:2] == [
        tokens[:5] for tokens in alone
    ]


@pytest.mark.rule("S6.1")
def test_all_kinds_of_samplers_draw_alike(kinds: SamplerKinds) -> None:
    inputs = [{"input_ids": ids} for ids in prompts(REF)]
    drawn = [
        tokens_of(kinds.shared(kind).sample(inputs, {**HOT, "seed": 9}, num_samples=2))
        for kind in ("torch", "remote-torch")
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.rule("S6.2", "S6.3")
def test_children_and_equal_inputs_draw_differently(sampler: SamplerBase) -> None:
    inputs = [{"input_ids": prompts(REF)[0]}] * 4
    drawn = tokens_of(sampler.sample(inputs, {**HOT, "seed": 0}, num_samples=4))
    assert len({tuple(tokens) for tokens in drawn}) == 16
    other = tokens_of(sampler.sample(inputs, {**HOT, "seed": 1}, num_samples=4))
    assert not {tuple(tokens) for tokens in drawn} & {tuple(tokens) for tokens in other}


@pytest.mark.rule("S6.4")
def test_no_global_random_state_is_read_or_set(sampler: SamplerBase) -> None:
    import torch

    sampler.sample({"input_ids": [5]}, {"max_tokens": 1})  # whatever is made at the first use

    def seed_all(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    seed_all(1)
    expected = draws()
    seed_all(1)
    with_seed = tokens_of(sampler.sample({"input_ids": [5, 6]}, {**HOT, "seed": 3}))
    without = tokens_of(sampler.sample({"input_ids": [5, 6]}, HOT))
    assert draws() == expected
    seed_all(1)
    assert tokens_of(sampler.sample({"input_ids": [5, 6]}, {**HOT, "seed": 3})) == with_seed
    assert tokens_of(sampler.sample({"input_ids": [5, 6]}, HOT)) != without


@pytest.mark.rule("S6.5")
def test_without_a_seed_nothing_repeats(sampler: SamplerBase, second_sampler: SamplerBase) -> None:
    inputs = [{"input_ids": prompts(REF)[0]}] * 3
    drawn = [tokens for _ in range(3) for tokens in tokens_of(sampler.sample(inputs, HOT))]
    drawn += tokens_of(second_sampler.sample(inputs, HOT, num_samples=2))
    assert len({tuple(tokens) for tokens in drawn}) == 15


@pytest.mark.rule("S6.5", only=("engine-torch",))
def test_fresh_processes_seed_themselves() -> None:
    program = "from sampler_server.engines.torch.noise import private_seed; print(private_seed())"
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    seeds = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert seeds[0] != seeds[1]


def keys(inputs: list[dict[str, Any]], **options: Any) -> list[int]:
    backend = RecordingBackend()
    SamplerBase(backend).sample(inputs, {"max_tokens": 1}, **options)
    return [group.key for group in backend.groups]


@pytest.mark.rule("S6.6")
def test_a_group_is_prompt_and_revision_or_an_explicit_key() -> None:
    a, b = {"input_ids": [5, 6]}, {"input_ids": [5, 7]}
    first, second, third, fourth = keys([a, b, a, {"input_ids": np.array([5, 6])}])
    assert first == third == fourth != second
    assert keys([b, a]) == [second, first]
    assert len(set(keys([a, b, a], group_key="job"))) == 1
    one, two, three = keys([a, a, b], group_key=["x", "y", "x"])
    assert one == three != two


@pytest.mark.rule("S5.1", "S4.8", only=("torch",))
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_other_architectures_are_exact_too(architecture: Any) -> None:
    from tests.tiny_models import tiny_model

    from sampler_server import TorchSampler

    other: Reference = reference(architecture)
    params = SamplingParams(temperature=0, max_tokens=16, logprobs=3)
    with TorchSampler(str(tiny_model(architecture)), dtype="float32", device="cpu") as sampler:
        for ids in prompts(other):
            (sequence,) = sampler.sample({"input_ids": ids}, params)[0].sequences
            assert sequence.tokens == other.greedy(ids, params).tokens
            assert_explained(other, ids, sequence, params)
