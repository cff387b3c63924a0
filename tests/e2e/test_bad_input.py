"""What people get wrong, on real nodes: one sentence at `kubectl get sd -o wide` says what to fix,
and the client says where that sentence is."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster.cluster import Cluster
from tests.e2e_fleet import E2eFleet, endpoint_of
from tests.kube_commands import KubeCommands
from tests.proxy import wait_until
from tests.raw_adapters import write_adapter

from sampler_api.errors import AdapterMissing, NoReplica, SamplerError, Unauthorized
from sampler_client import RemoteSampler

Object = dict[str, Any]

ABSENT_IMAGE: Final = "localhost/sampler-sim:absent"
CLAIM: Final = {"claimName": "unbound"}
LORA: Final = {"name": "runs", "mountPath": "/runs"}


def claim() -> Object:
    """It names no StorageClass, and the cluster has no default one."""
    resources = {"requests": {"storage": "1Gi"}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": resources}
    metadata = {"name": CLAIM["claimName"]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": spec,
    }


def secret(name: str, text: str) -> Object:
    """With a file of tokens."""
    metadata = {"name": name}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "stringData": {"token": text},
    }


@dataclass(frozen=True, slots=True)
class Mistake:
    """A spec that cannot serve. ``message`` is a pattern of what is told; in it POD stands for the
    name of a pod and NAMESPACE for that of the namespace."""

    spec: Object
    reason: str
    message: str
    others: list[Object] = field(default_factory=list)


MISTAKES: Final[dict[str, Mistake]] = {
    "image-absent": Mistake(
        {"image": ABSENT_IMAGE, "imagePullPolicy": "IfNotPresent"},
        "ImagePull",
        f"replica POD: image {ABSENT_IMAGE} cannot be pulled: .*; check spec.image.*",
    ),
    "image-never": Mistake(
        {"image": ABSENT_IMAGE, "imagePullPolicy": "Never"},
        "ImageNeverPull",
        f"replica POD: image {ABSENT_IMAGE} is not on the node and imagePullPolicy is Never; load"
        " it there or change the policy",
    ),
    "no-storage-class": Mistake(
        {"lora": {"volumes": [{**LORA, "persistentVolumeClaim": CLAIM}]}},
        "VolumeUnbound",
        "replica POD: a PersistentVolumeClaim has no volume yet; give it a storageClassName if the"
        " cluster has no default StorageClass, see kubectl describe pvc in namespace NAMESPACE .*",
        [claim()],
    ),
    "no-volume": Mistake(
        {
            "lora": {
                "volumes": [
                    {**LORA, "hostPath": {"path": "/nonexistent/runs", "type": "Directory"}}
                ]
            }
        },
        "MountFailed",
        r"replica POD: MountVolume.SetUp failed for volume \"lora-runs\" : hostPath type check"
        " failed: /nonexistent/runs is not a directory",
    ),
    "no-secret": Mistake(
        {"auth": {"tokenSecretRef": {"name": "nobodys"}}},
        "MountFailed",
        "replica POD: Secret nobodys does not exist in namespace NAMESPACE; create it .*",
    ),
    "tokens-malformed": Mistake(
        {"auth": {"tokenSecretRef": {"name": "malformed"}}},
        "EngineStartFailed",
        "replica POD: sampler serve: /.*:1: must be name:role:token with role sample, publish or"
        " admin",
        [secret("malformed", "hunter2\n")],
    ),
}
TOKENS: Final = "trainer:publish:right\n"


@pytest.fixture(scope="module")
def open_namespace(cluster: KubeCommands, operator: str) -> Iterator[str]:
    """One that takes all pods, also those with directories of their node."""
    assert operator
    name = f"mistakes-{os.getpid()}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def made(cluster: KubeCommands, namespace: str, name: str, spec: Object) -> E2eFleet:
    """A small sim fleet with a spec of its own."""
    fleet = E2eFleet(cluster, namespace, name)
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    fleet.apply("sim.yaml", {"replicas": 1, "resources": small, **spec})
    return fleet


@pytest.fixture(scope="module")
def mistaken(own_cluster: Cluster, open_namespace: str) -> Iterator[dict[str, E2eFleet]]:
    """All of them at once: what a kubelet says of a volume takes a while. A cluster of somebody
    else may have a default StorageClass."""
    fleets = {}
    for name, mistake in MISTAKES.items():
        fleet = E2eFleet(own_cluster, open_namespace, name)
        for other in mistake.others:
            fleet.apply_object(other)
        fleets[name] = made(own_cluster, open_namespace, name, mistake.spec)
    yield fleets
    for fleet in fleets.values():
        fleet.delete()


@pytest.mark.parametrize("name", MISTAKES)
def test_one_sentence_says_what_to_fix(
    mistaken: dict[str, E2eFleet], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, mistake = mistaken[name], MISTAKES[name]
    told = f"0 of 1 replicas ready; {mistake.message}"
    told = told.replace("POD", rf"{name}-\w+-\w+").replace("NAMESPACE", fleet.namespace)

    def is_told() -> bool:
        found = fleet.condition("Ready")
        return (
            found.get("status") == "False"
            and found["reason"] == mistake.reason
            and re.fullmatch(told, found["message"]) is not None
        )

    try:
        wait_until(is_told, f"{name}: {mistake.reason}: {told}", 60, 0.3)
    except AssertionError as error:
        raise AssertionError(f"{error}, but: {fleet.condition('Ready')}") from None
    shown = fleet.table(f"sd/{name}", "--output=wide").splitlines()[1]
    assert mistake.reason in shown
    assert fleet.condition("Ready")["message"] in shown

    monkeypatch.setenv("KUBECONFIG", str(fleet.cluster.admin_kubeconfig))
    where = f"`kubectl get sd {name} --namespace={fleet.namespace} -o wide` says why"
    target = f"k8s://{fleet.namespace}/{name}"
    with (
        RemoteSampler(target, first_reply_timeout=1) as sampler,
        pytest.raises(NoReplica, match=re.escape(where)),
    ):
        sampler.sample({"input_ids": [1]}, {"max_tokens": 1})


@pytest.fixture(scope="module")
def guarded(cluster: KubeCommands, open_namespace: str) -> Iterator[E2eFleet]:
    """It asks for a token, and has no volume with adapters."""
    E2eFleet(cluster, open_namespace, "").apply_object(secret("tokens", TOKENS))
    auth = {"tokenSecretRef": {"name": "tokens"}}
    fleet = made(cluster, open_namespace, "guarded", {"auth": auth, "lora": {}})
    fleet.wait_up_to_date()
    yield fleet
    fleet.delete()


def error_of(fleet: E2eFleet, token: str | None) -> SamplerError | None:
    """Why the fleet is not sampled from with a token; None if it is."""
    [pod] = fleet.ready_pods()
    with RemoteSampler(endpoint_of(pod), token=token) as sampler:
        try:
            sampler.sample({"input_ids": [1]}, {"max_tokens": 1})
        except SamplerError as error:
            return error
    return None


@pytest.mark.parametrize("token", ["wrong", None])
def test_who_has_the_wrong_token_is_told_where_the_right_one_is(
    guarded: E2eFleet, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMPLER_TOKEN", raising=False)
    error = error_of(guarded, token)
    assert isinstance(error, Unauthorized)
    assert error.message.endswith(
        "the token is missing or wrong; token= (or SAMPLER_TOKEN) must be in the server's token"
        " file: on a cluster, the Secret of the fleet's spec.auth"
    )
    assert error_of(guarded, "right") is None
    # Nothing is wrong with the fleet.
    assert "1 of 1 replicas ready" in guarded.table("sd/guarded", "--output=wide")


def test_an_adapter_of_a_volume_that_is_not_mounted_is_refused_by_its_path(
    guarded: E2eFleet, tmp_path: Path
) -> None:
    [pod] = guarded.ready_pods()
    # The job has its volume, and replicas have not.
    adapter = write_adapter(tmp_path / "policy")
    with (
        RemoteSampler(endpoint_of(pod), token="right") as sampler,
        pytest.raises(AdapterMissing) as caught,
    ):
        sampler.add_adapter_to_model("policy", str(adapter))
    assert caught.value.message == (
        f"{adapter}: this replica reads no directories; serve with an --adapter-root above it: on a"
        " cluster, a volume of the fleet's spec.lora.volumes"
    )
