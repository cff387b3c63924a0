"""A real model in a pod: weights on a claim, an adapter that a job writes to another one."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from demo.smollm2 import ensure_model
from tests import adapter_job
from tests.cluster.cluster import Cluster
from tests.cluster.images import build
from tests.e2e_fleet import E2eFleet
from tests.e2e_job import TrainingJob
from tests.proxy import wait_until

from sampler_server import TorchSampler

pytestmark = pytest.mark.timeout(600)  # the image is large, and a model loads

# One node has the image.
NODE: Final = 1
MODEL: Final = "smollm2-135m-instruct"
# docs/semantics.md: logprobs are those of a plain forward pass.
LOGPROB_ERROR: Final = 1e-4

Object = dict[str, Any]


def volume(namespace: str, name: str, folder: Path) -> list[Object]:
    """A claim that pods of all nodes may write, and its volume: a directory that nodes share."""
    size = {"storage": "2Gi"}
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    metadata = {"name": f"{namespace}-{name}"}
    reference = {"namespace": namespace, "name": name}
    path = {"hostPath": {"path": str(folder)}, "claimRef": reference, "capacity": size}
    claim = {**shared, "volumeName": metadata["name"], "resources": {"requests": size}}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": metadata,
            "spec": {**shared, **path},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": claim,
        },
    ]


@pytest.fixture(scope="module")
def model() -> Path:
    """The 135M model of the demo."""
    return ensure_model()


@pytest.fixture(scope="module")
def runs(own_cluster: Cluster) -> Path:
    """Where the job's claim is on this machine."""
    folder = own_cluster.folder / "volumes" / "runs"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def torch_fleet(
    own_cluster: Cluster,
    restricted: str,
    model: Path,
    runs: Path,
    pytestconfig: pytest.Config,
) -> Iterator[E2eFleet]:
    """``manifests/examples/sampler.yaml`` with a claim in place of a hub, and adapters."""
    image = build("sampler-torch")
    own_cluster.import_image(image.archive, [NODE])
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nimage: {image.name} {image.size / 1e6:.0f} MB")
    weights = runs.parent / "models"
    shutil.copytree(model, weights / MODEL)
    for file in (weights / MODEL).iterdir():
        file.chmod(0o444)
    fleet = E2eFleet(own_cluster, restricted, "small")
    for made in (*volume(restricted, "models", weights), *volume(restricted, "runs", runs)):
        fleet.apply_object(made)
    fleet.apply("sampler.yaml", spec(own_cluster, f"pvc://models/{MODEL}"))
    fleet.wait_up_to_date(150)
    yield fleet
    fleet.delete()


def spec(cluster: Cluster, uri: str) -> Object:
    """What is other than in the example: this machine has two cores and no hub."""
    claim = {"persistentVolumeClaim": {"claimName": "runs"}}
    return {
        "model": {"uri": uri},
        "replicas": 1,
        "resources": {
            # Two of these share their node with the sim fleet and, where it landed, the operator.
            "requests": {"cpu": "200m", "memory": "1Gi"},
            "limits": {"memory": "4Gi"},
        },
        "lora": {"volumes": [{"name": "runs", "mountPath": "/runs", **claim}]},
        "nodeSelector": {"kubernetes.io/hostname": cluster.node_names[NODE]},
    }


def with_runs(pod: Object) -> None:
    """The job's claim, where replicas have it too; no rights at the API server."""
    pod["volumes"] = [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "runs", "mountPath": "/runs"}]
    pod["automountServiceAccountToken"] = False
    del pod["serviceAccountName"]


def test_a_job_writes_an_adapter_and_the_fleet_samples_with_it_by_name(
    own_cluster: Cluster, torch_fleet: E2eFleet, model: Path, runs: Path
) -> None:
    target = f"dns://small-replicas.{torch_fleet.namespace}"
    script = Path(adapter_job.__file__).read_text()
    words = ["-", target, "/runs/policy"]
    job = TrainingJob(
        own_cluster,
        torch_fleet.namespace,
        "publisher",
        script=f"import sys\nsys.argv = {words}\n{script}",
        change=with_runs,
    )
    said = json.loads(job.run()[-1])
    assert said[""]["text"] == "The capital of France is Paris.<|im_end|>"
    assert said[""]["revision"][1] is None
    assert said["policy"]["revision"][1] is not None
    assert said["policy"]["tokens"] != said[""]["tokens"]
    # The same engine in this process, with the files of the two volumes.
    with TorchSampler(str(model)) as sampler:
        sampler.add_adapter_to_model("policy", str(runs / "policy"))
        for name, answer in said.items():
            here = adapter_job.said(sampler, name)
            assert answer["revision"] == here["revision"]
            assert answer["tokens"] == here["tokens"]
            assert answer["logprobs"] == pytest.approx(here["logprobs"], abs=LOGPROB_ERROR)


def test_kubectl_shows_the_model_and_restricted_pods_serve_it(torch_fleet: E2eFleet) -> None:
    row = torch_fleet.table("sd/small").splitlines()[1].split()
    assert row[:6] == ["small", "True", "1/1", "torch", "1", f"pvc://models/{MODEL}"]
    [pod] = torch_fleet.ready_pods()
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_model_that_is_not_on_its_claim_is_told_with_its_path(
    own_cluster: Cluster, torch_fleet: E2eFleet
) -> None:
    fleet = E2eFleet(own_cluster, torch_fleet.namespace, "lost")
    fleet.apply("sampler.yaml", spec(own_cluster, "pvc://models/nobodys"))
    told = r"0 of 1 replicas ready; replica lost-\w+-\w+: .*there is no directory '/\S*nobodys'.*"

    def is_told() -> bool:
        found = fleet.condition("Ready")
        message = found.get("message", "")
        is_so = found.get("reason") == "EngineStartFailed"
        return is_so and re.fullmatch(told, message) is not None

    try:
        wait_until(is_told, told, 90, 0.3)
    except AssertionError as error:
        raise AssertionError(f"{error}, but: {fleet.condition('Ready')}") from None
    finally:
        shown = fleet.table("sd/lost", "--output=wide")
        fleet.delete()
    assert "EngineStartFailed" in shown
