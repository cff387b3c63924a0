"""A vLLM engine that gives raw logprobs: of the untouched logits, whatever was drawn from."""

import numpy as np
import pytest
from tests.reference import log_softmax, reference
from tests.torch_harness import ask, prompt_of
from tests.vllm_harness import TOLERANCE, VllmHarness


@pytest.mark.rule("S4.2", "S4.8", only=("engine-vllm",))
def test_raw_logprobs_are_of_untouched_logits() -> None:
    with VllmHarness(max_adapters=0, logprobs_mode="raw") as harness:
        assert harness.engine.info.logprobs_modes == ("raw",)
        requests = [
            ask(
                prompt_of(30, seed),
                seed=seed,
                output=[300, 301] * (seed % 2),
                logprobs=k,
                temperature=temperature,
                repetition_penalty=1.4,
                presence_penalty=0.5,
                logit_bias={300: 3.0},
                top_p=0.9,
                max_tokens=12,
            )
            for seed, (k, temperature) in enumerate([(1, 0.0), (1, 0.6), (4, 0.6), (4, 3.0)])
        ]
        for request, found in zip(requests, harness.run(*requests), strict=True):
            ids = [*request.prompt_ids.tolist(), *request.output_ids.tolist(), *found.tokens]
            logits = reference().logits(ids)[-len(found.tokens) - 1 : -1]
            rows = np.array([log_softmax(row) for row in logits])
            expected = rows[np.arange(len(rows)), found.tokens]
            assert np.abs(expected - found.logprobs).max() <= TOLERANCE
            k = request.params.logprobs or 1
            if k > 1:
                ids_of_best, best = found.top(k)
                for row, ids_k, values in zip(rows, ids_of_best, best, strict=True):
                    assert np.abs(row[ids_k] - values).max() <= TOLERANCE
