"""TorchSampler on CUDA: the same numbers as a plain forward pass on the CPU."""

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from tests.reference import reference  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402

from sampler_api import SamplingParams  # noqa: E402
from sampler_core.base import SamplerBase  # noqa: E402
from sampler_server import TorchSampler  # noqa: E402

# The first kernels of a process load slowly.
pytestmark = pytest.mark.timeout(300)

PROMPTS = [[5 + i, 17, 300 + 7 * i, 41, 9] * (1 + i % 3) for i in range(8)]


@pytest.fixture(scope="module")
def sampler() -> Iterator[SamplerBase]:
    with TorchSampler(str(tiny_model()), dtype="float32", device="cuda") as made:
        yield made


@pytest.mark.parametrize("adapter", ["", "a1", "a2"])
def test_greedy_tokens_and_logprobs_equal_a_plain_forward_pass(
    sampler: SamplerBase, adapter: str
) -> None:
    if adapter:
        sampler.add_adapter_to_model(adapter, str(tiny_adapter(adapter)))
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
    responses = sampler.sample([{"input_ids": p} for p in PROMPTS], params, adapter)
    for prompt, sequence in zip(PROMPTS, responses.sequences, strict=True):
        logits = reference().logits([*prompt, *sequence.tokens], adapter or None)
        rows = logits[len(prompt) - 1 : -1]
        assert sequence.tokens == rows.argmax(-1).tolist()
        scores = rows - np.logaddexp.reduce(rows, -1, keepdims=True)
        expected = scores[np.arange(len(rows)), sequence.tokens]
        got = [row[0][1] for row in sequence.logprobs or ()]
        assert np.abs(expected - got).max() <= 1e-3


def test_seeded_samples_do_not_depend_on_the_batch(sampler: SamplerBase) -> None:
    params = SamplingParams(max_tokens=16, seed=7, ignore_eos=True)
    together = sampler.sample([{"input_ids": p} for p in PROMPTS], params)
    first = sampler.sample({"input_ids": PROMPTS[0]}, params)
    assert together[0].sequences[0].tokens == first[0].sequences[0].tokens
