"""Torch servers that die or leave while they generate: what arrives is what one alone gives."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.proxy import wait_until
from tests.servers import Server
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import cache_root, tiny_model

from sampler_api.logprobs import LogprobRows
from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler, SamplingParams

PROMPTS: list[dict[str, Any]] = [{"input_ids": [7 + n, 9, 30 + n]} for n in range(8)]
# No stop string that is there ends one: they are looked for at every token.
PARAMS = SamplingParams(
    max_tokens=400, temperature=0.0, ignore_eos=True, logprobs=1, stop=["never\x00said"]
)


@contextmanager
def torch_server() -> Iterator[Server]:
    with Server(
        f"--model={tiny_model()}",
        "--dtype=float32",
        "--device=cpu",
        "--threads=1",
        f"--adapter-root={cache_root()}",
        engine="torch",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def staying() -> Iterator[Server]:
    with torch_server() as server:
        yield server


def sampled(sampler: RemoteSampler, adapter: Path | None) -> list[SampledSequence]:
    path = None if adapter is None else str(adapter)
    return sampler.sample(PROMPTS, PARAMS, adapter_path=path).sequences


def logprobs_of(sequence: SampledSequence) -> Any:
    assert isinstance(sequence.logprobs, LogprobRows)
    return sequence.logprobs.sampled


@pytest.mark.timeout(120)
@pytest.mark.rule("S12.1", "S12.4", only=("remote-torch",))
@pytest.mark.parametrize(
    ("signal_", "adapter"),
    [
        pytest.param(signal.SIGKILL, "a1", id="killed, under an adapter"),
        pytest.param(signal.SIGTERM, None, id="drained, the base"),
    ],
)
def test_what_a_dying_server_began_another_one_ends_the_same(
    staying: Server, signal_: signal.Signals, adapter: str | None
) -> None:
    path = None if adapter is None else tiny_adapter(adapter)
    with torch_server() as leaving, ThreadPoolExecutor(1) as pool:
        with RemoteSampler(staying.url) as alone:
            expected = sampled(alone, path)
        with RemoteSampler(f"{staying.url},{leaving.url}") as sampler:
            asked = pool.submit(sampled, sampler, path)
            wait_until(
                lambda: (
                    (load := leaving.status()["load"])["running"]
                    and load["kv_used"] > 80 * load["running"]
                ),
                "it has made more tokens than it keeps back",
            )
            leaving.send(signal_)
            found = asked.result()
    assert [s.tokens for s in found] == [s.tokens for s in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.abs(logprobs_of(one) - logprobs_of(other)).max() <= 1e-4
        assert one.revision == other.revision
        assert one.revision is not None
        assert (one.revision.adapter is None) == (adapter is None)
    why = "lost" if signal_ == signal.SIGKILL else "drained"
    moved = [s for s in found if why in [segment.ended for segment in s.segments]]
    assert moved
    assert {segment.replica for s in moved for segment in s.segments} == {
        staying.name,
        leaving.name,
    }
