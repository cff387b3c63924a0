"""Tests of this folder run pods: on a whole Kubernetes of this machine, one for all of them, or on
the cluster of ``E2E_KUBECONFIG``, which has our images (``E2E_REGISTRY``, ``E2E_TAG``) and whose
pods this machine reaches."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.images import build
from tests.cluster.requirements import missing_for_tier
from tests.e2e_fleet import E2eFleet
from tests.e2e_job import JOB_NODE
from tests.e2e_operator import install_operator, make_restricted
from tests.kube_commands import KubeCommands

NODES: Final = 2
_IMAGES: Final = ("sampler-operator", "sampler-sim")
_JOB_IMAGE: Final = "sampler-job"
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
    job = build(_JOB_IMAGE)
    built = time.monotonic()
    with ExitStack() as stack:
        own = stack.enter_context(Cluster(NODES, [image.archive for image in images]))
        own.import_image(job.archive, [JOB_NODE])
        up = time.monotonic()
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            listed = [f"{image.name} {image.size / 1e6:.0f} MB" for image in (*images, job)]
            sizes = ", ".join(listed)
            print(f"images: {sizes}; found current or built in {built - started:.1f} s")
            print(f"cluster: {NODES} nodes with them ready after {up - built:.1f} s")
        yield own
        for name, log in own.fallen.items():
            pytest.fail(f"{name} has ended by itself:\n{log}", pytrace=False)


@pytest.fixture(scope="session")
def own_cluster(cluster: KubeCommands) -> Cluster:
    """Of this machine, for tests that break parts of it."""
    if not isinstance(cluster, Cluster):
        pytest.skip("breaks parts of the cluster, which is not of this machine")
    return cluster


@pytest.fixture(scope="session")
def operator(cluster: KubeCommands) -> str:
    """`helm install` of the chart, with our images: the operator's namespace. Its pod is ready."""
    return install_operator(cluster)


@pytest.fixture(scope="session")
def restricted(cluster: KubeCommands, operator: str) -> Iterator[str]:
    """A namespace that refuses pods which are not of the Pod Security standard ``restricted``."""
    name = f"e2e-{os.getpid()}-{next(_numbers)}"
    make_restricted(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def fleet(cluster: KubeCommands, restricted: str) -> E2eFleet:
    """``manifests/examples/sim.yaml`` as it is; all its replicas serve."""
    fleet = E2eFleet(cluster, restricted, "sim")
    fleet.apply("sim.yaml")
    fleet.wait_up_to_date()
    return fleet
