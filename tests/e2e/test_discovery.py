"""Jobs in pods find a fleet's replicas: by EndpointSlices, by DNS, from other namespaces, and
without the right to look."""

import itertools
import os
import re
import shlex
from collections.abc import Iterator
from typing import Final

import httpx
import msgspec
import pytest
from tests.e2e_fleet import E2eFleet, Object
from tests.e2e_job import ACCOUNT, TrainingJob, example_job
from tests.e2e_operator import make_restricted
from tests.e2e_samples import SimCall
from tests.kube_commands import KubeCommands

from sampler_api.fleet import ReplicaStatus
from sampler_api.names import CLIENT_ROLE, MANAGE_PORT

# Of the examples `job.yaml` and `sim.yaml`.
CALL: Final = SimCall([[7, number] for number in range(64)], 32)
_numbers: Final = itertools.count()
BY_SLICES: Final = "found 3 endpoints by EndpointSlices"


@pytest.fixture
def training(cluster: KubeCommands) -> Iterator[str]:
    """A namespace of jobs, without fleets, that takes restricted pods alone."""
    name = f"training-{os.getpid()}-{next(_numbers)}"
    make_restricted(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def account_and_binding(fleet: E2eFleet, namespace: str) -> tuple[Object, Object]:
    """Those of the example: for a job in ``namespace``, to be let look at the fleet."""
    account, binding, _ = example_job()
    account["metadata"]["namespace"] = namespace
    binding["metadata"]["namespace"] = fleet.namespace
    binding["subjects"][0]["namespace"] = namespace
    return account, binding


def all_tokens(fleet: E2eFleet) -> str:
    """What the example says last when it got every token of every sequence, from every replica."""
    pods = fleet.ready_pods()
    told = httpx.get(f"http://{pods[0]['status']['podIP']}:{MANAGE_PORT}/status", timeout=5)
    base = msgspec.json.decode(told.content, type=ReplicaStatus).base
    assert base is not None
    numbers = range(len(CALL.prompts)), range(CALL.samples)
    tokens = sum(len(CALL.wanted(*each, base)) for each in itertools.product(*numbers))
    return f"{tokens} tokens from {len(pods)} replicas"


def without_token(pod: Object) -> None:
    """The pod is nobody for the API server."""
    pod["automountServiceAccountToken"] = False
    del pod["serviceAccountName"]


def test_a_job_of_the_same_namespace_finds_replicas_by_endpoint_slices(
    cluster: KubeCommands, fleet: E2eFleet
) -> None:
    # The short form: the namespace is the pod's own.
    job = TrainingJob(cluster, fleet.namespace, "by-slices", target="k8s://sim")
    lines = job.run(*account_and_binding(fleet, fleet.namespace))
    assert lines[-1] == all_tokens(fleet)
    assert [line for line in lines if line.endswith(BY_SLICES)]
    assert [line for line in lines if line.startswith(("WARNING", "ERROR"))] == []


def test_a_job_finds_replicas_by_dns_and_needs_no_rights(
    cluster: KubeCommands, fleet: E2eFleet
) -> None:
    target = f"dns://sim-replicas.{fleet.namespace}"
    job = TrainingJob(cluster, fleet.namespace, "by-dns", target=target, change=without_token)
    lines = job.run()
    assert lines[-1] == all_tokens(fleet)
    assert [line for line in lines if line.startswith(("WARNING", "ERROR"))] == []


def test_the_example_samples_from_a_fleet_of_another_namespace(
    cluster: KubeCommands, fleet: E2eFleet, training: str
) -> None:
    job = TrainingJob(cluster, training, "trainer", target=f"k8s://{fleet.namespace}/sim")
    lines = job.run(*account_and_binding(fleet, training))
    assert lines[-1] == all_tokens(fleet)
    assert [line for line in lines if line.endswith(BY_SLICES)]
    assert [line for line in lines if line.startswith(("WARNING", "ERROR"))] == []


def test_without_the_right_a_job_samples_by_dns_and_its_log_has_the_command_that_gives_it(
    cluster: KubeCommands, fleet: E2eFleet, training: str
) -> None:
    account, _ = account_and_binding(fleet, training)
    target = f"k8s://{fleet.namespace}/sim"
    lines = TrainingJob(cluster, training, "not-allowed", target=target).run(account)
    assert lines[-1] == all_tokens(fleet)
    warnings = [line for line in lines if line.startswith(("WARNING", "ERROR"))]
    assert len(warnings) == 1, warnings
    assert "endpointslices.discovery.k8s.io is forbidden" in warnings[0]
    assert f"by DNS (sim-replicas.{fleet.namespace}.svc)" in warnings[0]
    command = re.search(r"kubectl (create rolebinding .*)$", warnings[0])
    assert command is not None, warnings[0]
    words = shlex.split(command[1])
    assert f"--clusterrole={CLIENT_ROLE}" in words
    assert f"--serviceaccount={training}:{ACCOUNT}" in words
    # What the log says is what is missing, and all of it.
    cluster.kubectl(*words)
    try:
        lines = TrainingJob(cluster, training, "allowed", target=target).run()
    finally:
        cluster.kubectl("delete", "rolebinding", words[2], f"--namespace={fleet.namespace}")
    assert lines[-1] == all_tokens(fleet)
    assert [line for line in lines if line.endswith(BY_SLICES)]
