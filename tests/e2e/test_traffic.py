"""Sampling from pods, and what becomes of it when one of them leaves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import msgspec
import pytest
from tests.e2e_fleet import E2eFleet, Object, endpoint_of
from tests.proxy import wait_until

from sampler_api.fleet import ReplicaStatus
from sampler_api.names import MANAGE_PORT
from sampler_api.results import Responses, Segment
from sampler_client import RemoteSampler, SamplingParams
from sampler_core.base import SamplerBase
from sampler_core.seeds import child_seed
from sampler_server.engines.sim.tokens import sim_sequence

SEED: Final = 7
SAMPLES: Final = 4
# Of the example: tokens a second and sequence, and how likely an end is.
DECODE_RATE: Final = 50
EOS_RATE: Final = 0.005
PROMPTS: Final = [[number, 3, 5, 7] for number in range(40)]
TOKENS: Final = 6 * DECODE_RATE


def test_every_pod_of_every_node_gives_the_sequences_that_were_asked_for(fleet: E2eFleet) -> None:
    served = set()
    for pod in fleet.ready_pods():
        with RemoteSampler(endpoint_of(pod)) as sampler:
            answer = sample(sampler, 32)
        assert list(differences(answer, 32)) == []
        served |= {segment.replica for segment in segments(answer)}
    assert served == fleet.ready_names()


def test_a_deleted_pod_hands_over_what_it_has_begun(
    fleet: E2eFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = fleet.ready_pods()
    endpoints = ",".join(map(endpoint_of, pods))
    with RemoteSampler(endpoints) as sampler, ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(sample, sampler, TOKENS)
        wait_until(lambda: any(map(is_halfway, pods)), "a pod has sequences that it has begun")
        leaving = next(pod for pod in pods if is_halfway(pod))
        name = leaving["metadata"]["name"]
        fleet.delete_pod(name)
        answer = sampling.result()
    assert list(differences(answer, TOKENS)) == []
    left = [each for each in segments(answer) if each.replica == name and each.ended != "finished"]
    continued = [segment for segment in left if segment.end > segment.start]
    with capsys.disabled():
        print(f"\n  {len(answer.sequences)} sequences, {len(left)} left the deleted pod,", end=" ")
        print(f"{len(continued)} of them with tokens")
    assert continued, "the pod had begun nothing when it was deleted"
    assert {segment.ended for segment in left} == {"drained"}
    wait_until(lambda: name not in fleet.pod_names(), f"{name} is gone", 60, 0.2)
    fleet.wait_up_to_date()
    assert len(fleet.ready_pods()) == 3


def sample(sampler: SamplerBase, tokens: int) -> Responses:
    """Every prompt, SAMPLES times."""
    params = SamplingParams(max_tokens=tokens, seed=SEED, logprobs=1)
    inputs: list[Any] = [{"input_ids": prompt} for prompt in PROMPTS]
    return sampler.sample(inputs, params, num_samples=SAMPLES)


def segments(answer: Responses) -> list[Segment]:
    """Of all sequences."""
    return [segment for sequence in answer.sequences for segment in sequence.segments]


def differences(answer: Responses, tokens: int) -> Iterator[str]:
    """Sequences that are not what the engine gives when nothing disturbs it."""
    for index, (response, prompt) in enumerate(zip(answer, PROMPTS, strict=True)):
        if len(response.sequences) != SAMPLES:
            yield f"input {index}: {len(response.sequences)} sequences"
        for child, sequence in enumerate(response.sequences):
            assert sequence.revision is not None
            seed = child_seed(SEED, index, child)
            wanted, _ = sim_sequence(
                prompt, seed, sequence.revision.base, None, tokens, eos_rate=EOS_RATE
            )
            if sequence.tokens != wanted:
                yield f"input {index}, child {child}: {sequence.tokens}, not {wanted}"


def is_halfway(pod: Object) -> bool:
    """It works on sequences, and has made tokens of them."""
    url = f"http://{pod['status']['podIP']}:{MANAGE_PORT}/status"
    told = httpx.get(url, timeout=5).content
    load = msgspec.json.decode(told, type=ReplicaStatus).load
    # Prompts are of 4 tokens.
    return load is not None and load.running > 0 and load.kv_used >= 8 * load.running
