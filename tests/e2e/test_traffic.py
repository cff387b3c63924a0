"""Sampling from pods, and what becomes of it when one of them leaves."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
import msgspec
import pytest
from tests.e2e_fleet import E2eFleet, Object, endpoint_of
from tests.e2e_samples import SimCall, segments
from tests.proxy import wait_until

from sampler_api.fleet import ReplicaStatus
from sampler_api.names import MANAGE_PORT
from sampler_client import RemoteSampler

PROMPTS: Final = [[number, 3, 5, 7] for number in range(40)]
SHORT: Final = SimCall(PROMPTS, 32)
# Six seconds of the example's engine.
LONG: Final = SimCall(PROMPTS, 300)


def test_every_pod_of_every_node_gives_the_sequences_that_were_asked_for(fleet: E2eFleet) -> None:
    served = set()
    for pod in fleet.ready_pods():
        with RemoteSampler(endpoint_of(pod)) as sampler:
            answer = SHORT.sample(sampler)
        assert list(SHORT.differences(answer)) == []
        served |= {segment.replica for segment in segments(answer)}
    assert served == fleet.ready_names()


def test_a_deleted_pod_hands_over_what_it_has_begun(
    fleet: E2eFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = fleet.ready_pods()
    endpoints = ",".join(map(endpoint_of, pods))
    with RemoteSampler(endpoints) as sampler, ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(LONG.sample, sampler)
        wait_until(lambda: any(map(is_halfway, pods)), "a pod has sequences that it has begun")
        leaving = next(pod for pod in pods if is_halfway(pod))
        name = leaving["metadata"]["name"]
        fleet.delete_pod(name)
        answer = sampling.result()
    assert list(LONG.differences(answer)) == []
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


def is_halfway(pod: Object) -> bool:
    """It works on sequences, and has made tokens of them."""
    url = f"http://{pod['status']['podIP']}:{MANAGE_PORT}/status"
    told = httpx.get(url, timeout=5).content
    load = msgspec.json.decode(told, type=ReplicaStatus).load
    # Prompts are of 4 tokens.
    return load is not None and load.running > 0 and load.kv_used >= 8 * load.running
