"""Tests of this folder run pods: on a whole Kubernetes of this machine, one for all of them, or on
the cluster of ``E2E_KUBECONFIG``, which has our images (``E2E_REGISTRY``, ``E2E_TAG``) and whose
pods this machine reaches."""

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.images import build, image_name
from tests.cluster.requirements import missing_for_tier
from tests.e2e_fleet import E2eFleet
from tests.kube_commands import KubeCommands
from tests.rendered_chart import CHART, NAMESPACE, RELEASE

NODES: Final = 2
_IMAGES: Final = ("sampler-operator", "sampler-sim")
_RESTRICTED: Final = "pod-security.kubernetes.io/enforce=restricted"
_numbers: Final = itertools.count()


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[KubeCommands]:
    """The cluster of this run; a ``Cluster`` unless one is given."""
    missing = missing_for_tier()
    if missing:
        told = f"no {', '.join(missing)}: `make cluster-tools` installs what can be installed"
        if "e2e" in os.environ.get("REQUIRE_TIERS", "").split():
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    given = os.environ.get("E2E_KUBECONFIG")
    if given:
        yield KubeCommands(tmp_path_factory.mktemp("given-cluster"), Path(given))
        return
    started = time.monotonic()
    images = [build(image) for image in _IMAGES]
    built = time.monotonic()
    with ExitStack() as stack:
        own = stack.enter_context(Cluster(NODES, [image.archive for image in images]))
        up = time.monotonic()
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            sizes = ", ".join(f"{image.name} {image.size / 1e6:.0f} MB" for image in images)
            print(f"images: {sizes}; found current or built in {built - started:.1f} s")
            print(f"cluster: {NODES} nodes with them ready after {up - built:.1f} s")
        yield own
        for name, log in own.fallen.items():
            pytest.fail(f"{name} has ended by itself:\n{log}", pytrace=False)


@pytest.fixture
def own_cluster(cluster: KubeCommands) -> Cluster:
    """Of this machine, for tests that break parts of it."""
    if not isinstance(cluster, Cluster):
        pytest.skip("breaks parts of the cluster, which is not of this machine")
    return cluster


@pytest.fixture(scope="session")
def operator(cluster: KubeCommands) -> str:
    """`helm install` of the chart, with our images: the operator's namespace. Its pod is ready."""
    repository, _, tag = image_name("sampler-operator").rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "images": {"sim": image_name("sampler-sim")},
    }
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--create-namespace", "--values", "-", "--wait", "--timeout", "90s"),
        input=json.dumps(values),
        seconds=100,
    )
    return NAMESPACE


@pytest.fixture(scope="session")
def restricted(cluster: KubeCommands, operator: str) -> Iterator[str]:
    """A namespace that refuses pods which are not of the Pod Security standard ``restricted``."""
    name = f"e2e-{os.getpid()}-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, _RESTRICTED)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def fleet(cluster: KubeCommands, restricted: str) -> E2eFleet:
    """``manifests/examples/sim.yaml`` as it is; all its replicas serve."""
    fleet = E2eFleet(cluster, restricted, "sim")
    fleet.apply("sim.yaml")
    fleet.wait_up_to_date()
    return fleet
