"""A fleet that grows with what waits at its clients, and shrinks under them."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.backlog_api import METRIC
from tests.cluster.cluster import Cluster
from tests.e2e_backlog import backlog_metrics
from tests.e2e_fleet import E2eFleet
from tests.e2e_samples import SimCall, segments
from tests.kube_commands import KubeCommands
from tests.proxy import wait_until
from tests.spec_cases import GONE

from sampler_api.results import Responses
from sampler_client import RemoteSampler

EXAMPLE: Final = Path(__file__).parents[2] / "manifests" / "examples" / "autoscaled.yaml"
MOST: Final = 3
# Of two callers with these, more waits at any time than two replicas may have waiting.
CALLERS: Final = 2
PROMPTS: Final = [[number, 9, 9] for number in range(60)]
TOKENS: Final = 200

Object = dict[str, Any]


@pytest.fixture(scope="module")
def metrics(own_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the autoscaler asks; a cluster of somebody else may have it from elsewhere."""
    with backlog_metrics(own_cluster, tmp_path_factory.mktemp("backlog")):
        yield


@pytest.fixture
def small(cluster: KubeCommands, restricted: str) -> Iterator[E2eFleet]:
    """One small replica. Its spec says nothing of replicas."""
    fleet = E2eFleet(cluster, restricted, "autoscaled")
    resources = {"requests": {"cpu": "100m", "memory": "256Mi"}}
    patch = {"replicas": GONE, "engine": {"sim": {"maxNumSeqs": 16}}, "resources": resources}
    fleet.apply("sim.yaml", patch)
    fleet.wait_up_to_date()
    yield fleet
    fleet.delete()


def autoscaler(kind: str) -> Object:
    """That of the example, with other limits and no patience; ``External`` asks for one number for
    the fleet, as KEDA's do."""
    _, made = yaml.safe_load_all(EXAMPLE.read_text())
    spec: Object = made["spec"]
    spec |= {"minReplicas": 1, "maxReplicas": MOST}
    spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 0
    [metric] = spec["metrics"]
    assert metric["pods"]["metric"]["name"] == METRIC
    if kind == "External":
        selector = {"matchLabels": {"sampler.dev/fleet": "autoscaled"}}
        target = metric["pods"]["target"]
        external = {"metric": {"name": METRIC, "selector": selector}, "target": target}
        spec["metrics"] = [{"type": kind, "external": external}]
    scaler: Object = made
    return scaler


@pytest.mark.parametrize("kind", ["Pods", "External"])
def test_a_fleet_follows_the_backlog_of_its_clients_and_loses_nothing(
    cluster: KubeCommands,
    small: E2eFleet,
    metrics: None,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.admin_kubeconfig))
    small.apply_object(autoscaler(kind))
    assert len(small.ready_pods()) == 1
    has_grown = threading.Event()
    numbers = itertools.count()

    def called(sampler: RemoteSampler) -> list[tuple[SimCall, Responses]]:
        """Calls one after the other until the fleet has grown; the last ones run on."""
        answers = []
        while not has_grown.is_set():
            call = SimCall(PROMPTS, TOKENS, seed=next(numbers))
            answers.append((call, call.sample(sampler)))
        return answers

    target = f"k8s://{small.namespace}/autoscaled"
    try:
        with RemoteSampler(target) as sampler, ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(called, sampler) for _ in range(CALLERS)]
            try:
                wait_until(lambda: len(small.ready_pods()) == MOST, f"{MOST} replicas", 120, 0.3)
            finally:
                has_grown.set()
            answers = [answer for caller in callers for answer in caller.result()]
            wait_until(lambda: len(small.pods()) == 1, "one replica is left", 90, 0.3)
        small.wait_up_to_date()
    finally:
        cluster.kubectl("delete", "hpa", "autoscaled", f"--namespace={small.namespace}")
    assert [wrong for call, answer in answers for wrong in call.differences(answer)] == []
    asked = sum(call.sequences for call, _ in answers)
    got = sum(len(answer.sequences) for _, answer in answers)
    parts = [segment for _, answer in answers for segment in segments(answer)]
    moved = [part for part in parts if part.ended == "drained" and part.end > part.start]
    with capsys.disabled():
        print(f"\n  {kind}: 1 -> {MOST} -> 1 replicas, {asked} sequences asked for,", end=" ")
        print(f"{asked - got} lost, {len(moved)} handed over when the fleet shrank")
    assert got == asked
    assert len({part.replica for part in parts}) == MOST
