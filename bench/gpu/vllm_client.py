"""Tokens per second of a client of one vLLM server, against vLLM without us, on one GPU.

256 sequences at once, prompts of 32 ids, each with the logprobs of its tokens, on a model of the
size and shape of Qwen2.5-0.5B whose weights are vLLM's dummies, in bfloat16. Needs vLLM and a GPU:
`PYTHONPATH=client:sampler_server:operator python bench/gpu/vllm_client.py`.

Baseline: ``AsyncLLM`` in this process, asked for token ids alone. Both engines are on the GPU at
the same time and are asked in turns; a round of each follows the other.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.report import Row, arguments, publish
from tests.servers import Server

from sampler_client import RemoteSampler

SEQUENCES: Final = 256
PROMPT: Final = 32
LENGTHS: Final = (16, 128)
VOCABULARY: Final = 151_936
SHARE: Final = 0.4
ROWS: Final[tuple[Row, ...]] = tuple(
    row
    for length in LENGTHS
    for row in (
        (f"{length}_ratio", "of AsyncLLM's", None, ">="),
        (f"{length}_tokens_per_s", "tok/s", None, ">="),
        (f"{length}_slowest_quarter_tokens_per_s", "tok/s", None, ">="),
    )
)


def write_model(folder: Path) -> None:
    """Config, tokenizer without merges, and a file in the place of weights."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    config = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        dtype="bfloat16",
        eos_token_id=2,
    )
    config.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet]
    names += [f"w{number}" for number in range(len(names), VOCABULARY)]
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=core, eos_token="<|im_end|>").save_pretrained(folder)
    save_file({"model.norm.weight": np.zeros(896, np.float32)}, folder / "model.safetensors")


def a_server(model: Path) -> Server:
    return Server(
        f"--model={model}",
        "--dtype=bfloat16",
        "--load-format=dummy",
        "--max-adapters=0",
        f"--max-num-seqs={SEQUENCES}",
        "--max-model-len=1024",
        f"--gpu-memory-utilization={SHARE}",
        "--no-enable-prefix-caching",
        "--drain-seconds=0",
        "--log-level=warning",
        engine="vllm",
    )


class Plain:
    """``AsyncLLM`` with the least that it can be asked for."""

    def __init__(self, model: Path, prompts: list[list[int]]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._prompts = prompts
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(model),
                dtype="bfloat16",
                load_format="dummy",
                max_num_seqs=SEQUENCES,
                max_model_len=1024,
                gpu_memory_utilization=SHARE,
                enable_prefix_caching=False,
                skip_tokenizer_init=True,
                disable_log_stats=True,
            )
        )
        self._number = 0

    async def round(self, length: int) -> float:
        """Tokens per second."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        async def one(ids: list[int], name: str) -> int:
            params = SamplingParams(
                max_tokens=length,
                temperature=1.0,
                logprobs=0,
                ignore_eos=True,
                detokenize=False,
                flat_logprobs=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            made = 0
            async for output in self._engine.generate({"prompt_token_ids": ids}, params, name):
                made = len(output.outputs[0].token_ids)
            return made

        self._number += 1
        begun = time.perf_counter()
        made = await asyncio.gather(
            *(one(ids, f"{self._number}-{i}") for i, ids in enumerate(self._prompts))
        )
        seconds = time.perf_counter() - begun
        assert made == [length] * SEQUENCES
        return sum(made) / seconds

    def close(self) -> None:
        self._engine.shutdown()


def ours(sampler: RemoteSampler, prompts: list[list[int]], length: int) -> float:
    """Tokens per second."""
    params = {"max_tokens": length, "temperature": 1.0, "logprobs": 1, "ignore_eos": True}
    begun = time.perf_counter()
    responses = sampler.sample([{"input_ids": ids} for ids in prompts], params)
    made = 0
    for sequence in responses.sequences:
        assert sequence.logprobs is not None
        assert len(sequence.tokens) == len(sequence.logprobs) == length
        made += length
    return made / (time.perf_counter() - begun)


async def measure(
    sampler: RemoteSampler, plain: Plain, prompts: list[list[int]], rounds: int
) -> dict[int, tuple[list[float], list[float]]]:
    """Rates of the client and of the baseline, for each length; the first round is left out."""
    found: dict[int, tuple[list[float], list[float]]] = {}
    for length in LENGTHS:
        rates: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            # Who goes first changes.
            for who in (number % 2, 1 - number % 2):
                rate = await (
                    plain.round(length)
                    if who
                    else asyncio.to_thread(ours, sampler, prompts, length)
                )
                if number:
                    rates[who].append(rate)
        found[length] = rates
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(300, VOCABULARY, PROMPT).tolist() for _ in range(SEQUENCES)]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        write_model(model)
        with a_server(model) as server, RemoteSampler(server.url) as sampler:

            async def both() -> dict[int, tuple[list[float], list[float]]]:
                plain = Plain(model, prompts)
                try:
                    return await measure(
                        sampler, plain, prompts, 4 if options.short else options.rounds
                    )
                finally:
                    plain.close()

            found = asyncio.run(both())
    figures: dict[str, float] = {}
    baseline: dict[str, float] = {}
    for length, rates in found.items():
        for values, to in zip(rates, (figures, baseline), strict=True):
            to[f"{length}_tokens_per_s"] = statistics.median(values)
            slowest = f"{length}_slowest_quarter_tokens_per_s"
            to[slowest] = float(np.percentile(values, 25))
        key = f"{length}_tokens_per_s"
        figures[f"{length}_ratio"] = figures[key] / baseline[key]
        print(json.dumps({length: [[round(r) for r in each] for each in rates]}), file=sys.stderr)
    ratio = {name: value for name, value in figures.items() if name.endswith("_ratio")}
    publish(
        "vllm_client",
        ROWS,
        figures,
        baseline,
        ratio,
        as_json=options.json,
        packages=("sampler-operator", "vllm", "torch"),
    )


if __name__ == "__main__":
    main()
