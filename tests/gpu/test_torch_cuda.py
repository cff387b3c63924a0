"""TorchSampler on CUDA: the same numbers as a plain forward pass on the CPU.

With two devices also on two ranks.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from tests.proxy import wait_until  # noqa: E402
from tests.reference import Reference, reference  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402

from sampler_api import SamplingParams  # noqa: E402
from sampler_api.errors import EngineDead  # noqa: E402
from sampler_core.base import SamplerBase  # noqa: E402
from sampler_server import TorchSampler  # noqa: E402

# The first kernels of a process load slowly.
pytestmark = pytest.mark.timeout(300)

PROMPTS = [[5 + i, 17, 300 + 7 * i, 41, 9] * (1 + i % 3) for i in range(8)]


def opened(ranks: int) -> TorchSampler:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    return TorchSampler(
        str(tiny_model()), dtype="float32", device="cuda", tensor_parallel_size=ranks
    )


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def sampler(request: pytest.FixtureRequest) -> Iterator[TorchSampler]:
    with opened(request.param) as made:
        yield made


@pytest.mark.parametrize("adapter", ["", "a1", "a2"])
def test_greedy_tokens_and_logprobs_equal_a_plain_forward_pass(
    sampler: SamplerBase, adapter: str
) -> None:
    if adapter:
        sampler.add_adapter_to_model(adapter, str(tiny_adapter(adapter)))
    assert_plain(sampler, adapter, reference())


def assert_plain(sampler: SamplerBase, adapter: str, whole: Reference) -> None:
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
    responses = sampler.sample([{"input_ids": p} for p in PROMPTS], params, adapter)
    for prompt, sequence in zip(PROMPTS, responses.sequences, strict=True):
        logits = whole.logits([*prompt, *sequence.tokens], adapter or None)
        rows = logits[len(prompt) - 1 : -1]
        assert sequence.tokens == rows.argmax(-1).tolist()
        scores = rows - np.logaddexp.reduce(rows, -1, keepdims=True)
        expected = scores[np.arange(len(rows)), sequence.tokens]
        got = [row[0][1] for row in sequence.logprobs or ()]
        assert np.abs(expected - got).max() <= 1e-3


def test_new_weights_serve_on_every_device(sampler: TorchSampler) -> None:
    adapters = {"a1": tiny_adapter("a1")}
    sampler.add_adapter_to_model("a1", str(adapters["a1"]))
    for step in (1, 0):
        sampler.update_weights(tiny_model(step=step))
        for adapter in ("", "a1"):
            assert_plain(sampler, adapter, Reference(tiny_model(step=step), adapters))


def test_seeded_samples_do_not_depend_on_the_batch(sampler: SamplerBase) -> None:
    params = SamplingParams(max_tokens=16, seed=7, ignore_eos=True)
    together = sampler.sample([{"input_ids": p} for p in PROMPTS], params)
    first = sampler.sample({"input_ids": PROMPTS[0]}, params)
    assert together[0].sequences[0].tokens == first[0].sequences[0].tokens


def test_a_rank_that_is_killed_in_a_step_ends_all_calls() -> None:
    with opened(2) as sampler, ThreadPoolExecutor(1) as pool:
        sampler.sample({"input_ids": PROMPTS[0]}, SamplingParams(max_tokens=2))
        ranks = sampler._engine._ranks  # type: ignore[attr-defined]
        params = SamplingParams(max_tokens=1900, ignore_eos=True)
        asked = pool.submit(sampler.sample, {"input_ids": PROMPTS[0]}, params)
        wait_until(lambda: sampler._engine.progress().running > 0, "it generates")
        os.kill(ranks.processes.pids[0], signal.SIGKILL)
        error = asked.exception(timeout=60)
    assert isinstance(error, EngineDead)
    assert "rank 1 of 2 was ended by SIGKILL" in error.message
