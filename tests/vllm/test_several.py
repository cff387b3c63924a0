"""Several vLLM engines of a pod: one starts after the other, each has its part of the memory."""

from pathlib import Path

import pytest
from tests.servers import Server
from tests.tiny_models import tiny_model
from tests.torch_harness import prompt_of

from sampler_client import RemoteSampler

SHARE = 0.3


def words_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.mark.timeout(300)
def test_two_engines_share_the_memory_that_was_asked_for_and_both_serve() -> None:
    with Server(
        f"--model={tiny_model()}",
        "--dtype=float32",
        "--engines=2",
        "--max-adapters=0",
        "--max-kv-tokens=65536",
        "--max-num-seqs=4",
        "--drain-seconds=0",
        "--enforce-eager",
        f"--gpu-memory-utilization={SHARE}",
        engine="vllm",
    ) as server:
        engines = server.announced["engines"]
        for engine in engines:
            words = words_of(engine["pid"])
            last = len(words) - 1 - words[::-1].index("--gpu-memory-utilization")
            assert float(words[last + 1]) == SHARE / 2
        urls = [f"http://127.0.0.1:{engine['port']}" for engine in engines]
        answers = []
        for url in urls:
            with RemoteSampler(url) as sampler:
                answers.append(
                    sampler.sample(
                        {"input_ids": prompt_of(10)}, {"max_tokens": 8, "temperature": 0}
                    )
                )
        first, second = (answer.sequences[0] for answer in answers)
        assert len(first.tokens) == 8
        assert first.tokens == second.tokens
        assert first.segments[0].replica != second.segments[0].replica
