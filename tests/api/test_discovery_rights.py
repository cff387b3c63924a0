"""``k8s://NAMESPACE/NAME`` and a real API server: who may look, in pods and out of them; the others
have DNS."""

import asyncio
import logging
import re
import shlex
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
import yaml
from tests import fleet_slices
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.fleet_slices import (
    SlicesOfFleet,
    ask,
    following,
    no_name,
    sampling,
)
from tests.proxy import wait_until
from tests.rendered_chart import find, render
from tests.servers import Server

from sampler_api.names import CLIENT_ROLE
from sampler_client.discovery.k8s import K8sDiscovery

JOB = Path(__file__).parents[2] / "manifests" / "examples" / "job.yaml"
slices = fleet_slices.slices


@pytest.fixture
def client_role(api_server: ApiServer) -> Object:
    """The chart's ClusterRole for clients."""
    role = find(render(), "ClusterRole", CLIENT_ROLE)
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{CLIENT_ROLE}"
    return api_server.client.apply(path, role)


@pytest.mark.usefixtures("client_role")
async def test_who_may_not_look_is_told_the_command_and_served_by_dns_until_it_was_run(
    api_server: ApiServer,
    slices: SlicesOfFleet,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig("ann")))
    slices.put("a", 1)
    looked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        looked.append((host, port))
        return ["10.77.0.5"]

    found = K8sDiscovery(f"k8s://{namespace}/sim", resolve=resolve, refused_seconds=0.2)
    async with aclosing(found.watch()) as sets:
        assert await following(sets) == ["5:8000"]
        assert looked[0] == (f"sim-replicas.{namespace}.svc", 8000)
        waiting = asyncio.ensure_future(following(sets))
        # It asks again, and says nothing more.
        await asyncio.to_thread(wait_until, lambda: len(looked) > 2, "it asks again")
        [warning] = [each for each in caplog.records if each.levelno >= logging.WARNING]
        command = re.search(r"To allow it: (kubectl create rolebinding .*)", warning.getMessage())
        assert command is not None
        api_server.kubectl(*shlex.split(command[1])[1:])
        assert await waiting == ["1:8000"]


def test_sampling_without_rights_works_by_dns(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig("bob")))
    # An address of its own: what DNS finds listens on the port of pods.
    with Server("--host", "127.77.0.3", "--port", "8000", "--manage-host", "127.0.0.1") as server:
        found = K8sDiscovery(f"k8s://{namespace}/sim", resolve=lambda *_: ["127.77.0.3"])
        with sampling(found) as sampler:
            assert ask(sampler) == {server.status()["replica"]}


async def test_without_credentials_dns_names_the_replicas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = K8sDiscovery("k8s://rl/sim", resolve=lambda *_: ["10.77.0.5"])
    async with aclosing(found.watch()) as sets:
        assert await following(sets) == ["5:8000"]
    assert "no credentials" in caplog.text
    assert "service account" in caplog.text


@pytest.fixture
def in_pod(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "InPod":
    return InPod(api_server, tmp_path, monkeypatch)


class InPod:
    """This process has what a pod of a service account has."""

    def __init__(self, server: ApiServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._token = folder / "token"
        self._namespace = folder / "namespace"
        host, _, port = server.url.removeprefix("https://").rpartition(":")
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        module = "kubernetes.aio.config.incluster_config"
        monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(self._token))
        monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(server.ca))
        monkeypatch.setattr("sampler_client.discovery.k8s._NAMESPACE_FILE", self._namespace)

    def become(self, namespace: str, account: str) -> None:
        words = ("create", "token", account, "--namespace", namespace, "--duration=1h")
        self._token.write_text(self._server.kubectl(*words).stdout.strip())
        self._namespace.write_text(namespace)


@pytest.mark.usefixtures("client_role")
async def test_the_job_of_the_examples_sees_the_fleet_of_another_namespace_and_nothing_else(
    api_server: ApiServer, namespace: str, in_pod: InPod, caplog: pytest.LogCaptureFixture
) -> None:
    account, binding, job = yaml.safe_load_all(JOB.read_text())
    home = job["metadata"]["namespace"]
    fleets = binding["metadata"]["namespace"]
    for name in (home, fleets):
        label = {"pod-security.kubernetes.io/warn": "restricted"}
        api_server.client.apply(
            f"/api/v1/namespaces/{name}",
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": label},
            },
        )
    # What a namespace would warn of is told on stderr.
    assert api_server.kubectl("apply", "-f", str(JOB)).stderr == ""
    pod = job["spec"]["template"]["spec"]
    in_pod.become(home, pod["serviceAccountName"])
    script = pod["containers"][0]["command"][-1]
    compile(script, "job", "exec")
    [target] = re.findall(r'RemoteSampler\("(.*?)"\)', script)
    assert target == f"k8s://{fleets}/sim"

    SlicesOfFleet(api_server, fleets).put("a", 1)
    SlicesOfFleet(api_server, namespace).put("a", 2)
    async with aclosing(K8sDiscovery(target, resolve=no_name).watch()) as sets:
        assert await following(sets) == ["1:8000"]
    assert "rolebinding" not in caplog.text
    elsewhere = K8sDiscovery(f"k8s://{namespace}/sim", resolve=lambda *_: ["10.77.0.5"])
    async with aclosing(elsewhere.watch()) as sets:
        assert await following(sets) == ["5:8000"]
    subject = f"--serviceaccount={home}:{account['metadata']['name']}"
    assert f"{subject} --namespace={namespace}" in caplog.text


async def test_a_name_alone_is_in_the_namespace_of_the_pod(
    api_server: ApiServer, namespace: str, in_pod: InPod
) -> None:
    in_pod.become(namespace, "default")
    assert K8sDiscovery("k8s://sim").fleet == f"{namespace}/sim"


async def test_a_token_that_is_not_accepted_any_more_is_read_anew(
    api_server: ApiServer, slices: SlicesOfFleet, namespace: str, in_pod: InPod
) -> None:
    slices.put("a", 1)
    words = ("create", "rolebinding", "look", "--clusterrole=view", f"--namespace={namespace}")
    api_server.kubectl(*words, f"--serviceaccount={namespace}:default")
    in_pod.become(namespace, "default")
    good = in_pod._token.read_text()
    in_pod._token.write_text("stale")
    found = K8sDiscovery(f"k8s://{namespace}/sim", resolve=no_name)
    async with aclosing(found.watch()) as sets:
        waiting = asyncio.ensure_future(following(sets))
        await asyncio.to_thread(
            wait_until, lambda: "Unauthorized" in found.description, "it is refused"
        )
        in_pod._token.write_text(good)
        assert await waiting == ["1:8000"]
