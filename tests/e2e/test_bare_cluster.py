"""A cluster that has nothing of ours says what is missing; one manifest brings all of it."""

import json
from collections.abc import Iterator
from typing import Final

import pytest
import yaml
from scripts.generate_chart import INSTALL
from tests.apiserver_client import Object
from tests.cluster.cluster import Cluster
from tests.cluster.images import build, image_name
from tests.e2e_fleet import E2eFleet, endpoint_of
from tests.e2e_samples import SimCall
from tests.installed_chart import CRD_PATH
from tests.proxy import wait_until
from tests.rendered_chart import CHART, NAMESPACE, RELEASE

from sampler_api.errors import NoReplica
from sampler_client import RemoteSampler

IMAGES: Final = ("sampler-operator", "sampler-sim")
CALL: Final = SimCall([[number, 1] for number in range(8)], 16)


@pytest.fixture(scope="module")
def bare(own_cluster: Cluster) -> Iterator[Cluster]:
    """One node beside the cluster of the other tests, for things that all of a cluster shares."""
    assert own_cluster
    with Cluster(1, [build(image).archive for image in IMAGES]) as cluster:
        yield cluster


def install(cluster: Cluster, **values: Object) -> None:
    """`helm install` that does not wait until anything works."""
    repository, _, tag = image_name("sampler-operator").rpartition(":")
    image = {"image": {"repository": repository, "tag": tag}}
    cluster.helm(
        *("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"),
        *("--values", "-"),
        input=json.dumps({**image, **values}),
    )


def operator_pods(cluster: Cluster) -> list[Object]:
    """Those that leave among them."""
    return cluster.client.items(f"/api/v1/namespaces/{NAMESPACE}/pods")


def last_words(cluster: Cluster) -> str:
    """Of an operator that has ended, as its pod's status has them."""
    for pod in operator_pods(cluster):
        for status in pod["status"].get("containerStatuses", ()):
            for state in (status["state"], status["lastState"]):
                if "terminated" in state:
                    message: str = state["terminated"].get("message", "")
                    return message.strip()
    return ""


def wait_for_last_words(cluster: Cluster) -> str:
    wait_until(lambda: last_words(cluster), "the operator has ended and says why", 90, 0.2)
    return last_words(cluster)


def uninstall(cluster: Cluster) -> None:
    cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
    # helm waits for its own objects only.
    wait_until(lambda: not operator_pods(cluster), "the operator's pod is gone", 60, 0.2)


def test_without_the_crd_operator_kubectl_and_client_say_so(
    bare: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bare, crds={"install": False})
    try:
        assert wait_for_last_words(bare) == (
            "sampler-operator: the cluster has no samplerdeployments.sampler.dev: apply the CRD"
            " first (it is part of the chart and of manifests/install.yaml)"
        )
        told = bare.kubectl("get", "sd", "-o", "wide", check=False)
        assert told.stderr == 'error: the server doesn\'t have a resource type "sd"\n'
        monkeypatch.setenv("KUBECONFIG", str(bare.admin_kubeconfig))
        with (
            RemoteSampler("k8s://default/sim", first_reply_timeout=1) as sampler,
            pytest.raises(NoReplica, match="`kubectl get sd sim --namespace=default -o wide`"),
        ):
            CALL.sample(sampler)
    finally:
        uninstall(bare)


def test_without_rights_the_operator_says_which_is_missing_and_where_to_get_it(
    bare: Cluster,
) -> None:
    install(bare, crds={"keep": False}, rbac={"create": False})
    try:
        words = wait_for_last_words(bare)
        assert words.startswith("sampler-operator: ")
        assert f'User "system:serviceaccount:{NAMESPACE}:{RELEASE}" cannot list' in words
        assert "install the chart's roles (rbac.create)" in words
        assert "\n" not in words
        # Nobody serves the fleet, and its row says nothing: as docs/operator.md has it.
        fleet = E2eFleet(bare, "default", "sim")
        fleet.apply("sim.yaml")
        header, row = fleet.table("sd/sim", "-o", "wide").splitlines()
        assert row[header.index("READY") : header.index("ENGINE")].strip() == ""
    finally:
        uninstall(bare)
    wait_until(lambda: not bare.client.exists(CRD_PATH), "the CRD is gone", 60)


def test_the_manifest_installs_an_operator_and_takes_all_away_again(bare: Cluster) -> None:
    text = INSTALL.read_text()
    [published] = {
        container["image"]
        for each in yaml.safe_load_all(text)
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    manifest = text.replace(published, image_name("sampler-operator"))
    bare.kubectl("apply", "--server-side", "-f", "-", input=manifest)
    # Its namespace takes restricted pods alone.
    rollout = ("rollout", "status", f"deployment/{RELEASE}", f"--namespace={NAMESPACE}")
    bare.kubectl(*rollout, "--timeout=90s", seconds=100)
    fleet = E2eFleet(bare, "default", "sim")
    fleet.apply("sim.yaml", {"replicas": 2, "image": image_name("sampler-sim")})
    fleet.wait_up_to_date()
    assert fleet.table("sd/sim").splitlines()[1].split()[:3] == ["sim", "True", "2/2"]
    with RemoteSampler(",".join(map(endpoint_of, fleet.ready_pods()))) as sampler:
        assert list(CALL.differences(CALL.sample(sampler))) == []
    bare.kubectl("delete", "-f", "-", "--timeout=60s", input=manifest, seconds=70)
    assert not bare.client.exists(CRD_PATH)
    # The garbage collector looks for new and lost kinds every 30 s, and what it then fails at it
    # tries again later and later.
    wait_until(lambda: not fleet.pods(), "the fleet went with its kind", 150, 0.2)
