"""vLLM with one model on two GPUs (tensor parallel) computes what it does on one, and leaves
nothing behind.

`PYTHONPATH=client:sampler_server:operator pytest -s tests/gpu/test_vllm_two_gpus.py`, on a machine
with two GPUs and vLLM.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

if torch.cuda.device_count() < 2:
    pytest.skip("needs two CUDA devices", allow_module_level=True)

from tests.reference import Reference, log_softmax, reference  # noqa: E402
from tests.servers import Server  # noqa: E402
from tests.tiny_adapters import tiny_adapter  # noqa: E402
from tests.tiny_models import cache_root, tiny_model  # noqa: E402
from tests.torch_harness import prompt_of  # noqa: E402
from tests.vllm_served import Served, ask_in_vain, wait_for_end  # noqa: E402

from sampler_api.params import SamplingParams  # noqa: E402
from sampler_client import RemoteSampler  # noqa: E402
from sampler_core.base import SamplerBase  # noqa: E402
from sampler_server import vLLMSampler  # noqa: E402

pytestmark = [
    # Four processes import vLLM.
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]

PROMPTS = [prompt_of(20 + 40 * seed, seed) for seed in range(12)]
TOLERANCE = {"float32": 1e-4, "float16": 3e-2}
ON_TWO = ("--tensor-parallel-size=2",)


def a_server(dtype: str, *options: str) -> Server:
    """On a GPU vLLM computes adapters in 16 bits only."""
    adapters = 0 if dtype == "float32" else 4
    return Server(
        f"--model={tiny_model()}",
        f"--dtype={dtype}",
        "--max-num-seqs=16",
        "--max-kv-tokens=65536",
        f"--max-adapters={adapters}",
        f"--adapter-root={cache_root()}",
        "--gpu-memory-utilization=0.3",
        "--drain-seconds=0",
        *options,
        engine="vllm",
    )


def scores(sampler: RemoteSampler, adapter: str) -> NDArray[np.float64]:
    """Logprobs of all tokens of the prompts but their first."""
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    responses = sampler.sample([{"input_ids": ids} for ids in PROMPTS], params, adapter)
    found = [value for each in responses for value in (each.prompt_logprobs or [])[1:]]
    return np.array(found, np.float64)


def plain_scores(adapter: str) -> NDArray[np.float64]:
    rows = [reference().prompt_logprobs(ids, adapter or None) for ids in PROMPTS]
    return np.concatenate(
        [row[np.arange(len(row)), ids[1:]] for row, ids in zip(rows, PROMPTS, strict=True)]
    )


def drawn_error(sampler: SamplerBase, adapter: str, plain: Reference | None = None) -> float:
    """Largest difference of a drawn token's logprob from that of a plain forward pass."""
    params = SamplingParams(max_tokens=24, logprobs=1, ignore_eos=True)
    responses = sampler.sample([{"input_ids": ids} for ids in PROMPTS], params, adapter)
    worst = 0.0
    for ids, sequence in zip(PROMPTS, responses.sequences, strict=True):
        assert len(sequence.tokens) == 24
        logits = (plain or reference()).logits([*ids, *sequence.tokens], adapter or None)
        rows = np.array([log_softmax(row) for row in logits[len(ids) - 1 : -1]])
        expected = rows[np.arange(24), sequence.tokens]
        got = [row[0][1] for row in sequence.logprobs or ()]
        worst = max(worst, float(np.abs(expected - got).max()))
    return worst


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_two_gpus_compute_what_one_does(dtype: str) -> None:
    adapters = ("",) if dtype == "float32" else ("", "a1", "a2")
    with (
        a_server(dtype) as first,
        a_server(dtype, *ON_TWO) as second,
        RemoteSampler(first.url) as one,
        RemoteSampler(second.url) as two,
    ):
        for adapter in adapters:
            for sampler in (one, two):
                if adapter:
                    sampler.add_adapter_to_model(adapter, str(tiny_adapter(adapter)))
            alone, together, plain = (
                scores(one, adapter),
                scores(two, adapter),
                plain_scores(adapter),
            )
            apart = float(np.abs(together - alone).max())
            wrong = float(np.abs(together - plain).max())
            drawn = drawn_error(two, adapter)
            print(
                f"\n{dtype} {adapter or 'base'}: {len(plain)} tokens of prompts; two GPUs from one "
                f"{apart:.2g}, from a plain forward pass {wrong:.2g}, of drawn tokens {drawn:.2g}"
            )
            assert max(apart, wrong, drawn) <= TOLERANCE[dtype]
        if len(adapters) > 1:
            # Others than the base's, or the adapters would not have been used.
            assert np.abs(scores(two, "a1") - scores(two, "")).max() > 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_new_weights_reach_both_gpus(dtype: str) -> None:
    adapters = {} if dtype == "float32" else {"a1": tiny_adapter("a1")}
    with vLLMSampler(
        str(tiny_model()),
        {"enforce_eager": True, "gpu_memory_utilization": 0.3, "tensor_parallel_size": 2},
        dtype=dtype,
        slots=16,
        kv_tokens=65_536,
        max_adapters=4 * len(adapters),
    ) as sampler:
        for adapter, directory in adapters.items():
            sampler.add_adapter_to_model(adapter, str(directory))
        for step in (0, 1):
            if step:
                sampler.update_weights(tiny_model(step=step))
            plain = Reference(tiny_model(step=step), adapters)
            for adapter in ("", *adapters):
                drawn = drawn_error(sampler, adapter, plain)
                print(f"\n{dtype} {adapter or 'base'}, step {step}: drawn tokens {drawn:.2g}")
                assert drawn <= TOLERANCE[dtype]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_server_with_a_word(tmp_path: Path, rank: int) -> None:
    served = Served(tmp_path, "--max-adapters=0", *ON_TWO)
    processes = served.processes()
    # The engine's core, and a worker for each GPU.
    assert len(processes) == 3
    os.kill(processes[1 + rank], signal.SIGKILL)
    assert served.server.wait(100) == 1
    assert "the vLLM engine has died" in served.log.read_text()
    wait_for_end(processes)


def test_a_wedged_rank_ends_the_server_with_a_word(tmp_path: Path) -> None:
    served = Served(tmp_path, "--stall-seconds=10", "--max-adapters=0", *ON_TWO)
    processes = served.processes()
    with RemoteSampler(served.server.url) as sampler:
        sampler.sample({"input_ids": PROMPTS[0]}, {"max_tokens": 4})
        os.kill(processes[-1], signal.SIGSTOP)
        asking = ask_in_vain(sampler, PROMPTS[0])
        assert served.server.wait(200) == 70
    asking.join()
    assert "engine stalled: no step for" in served.log.read_text()
    wait_for_end(processes)


def test_a_killed_server_leaves_no_rank(tmp_path: Path) -> None:
    served = Served(tmp_path, "--max-adapters=0", *ON_TWO)
    processes = served.processes()
    process = served.server._process
    assert process is not None
    process.kill()
    served.server.wait(20)
    wait_for_end(processes)
