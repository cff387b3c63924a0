"""``k8s://NAMESPACE/NAME`` and a real API server: slices that change, outages, rights.

Slices cannot have loopback addresses, and nothing answers at those of these tests. Where tests
sample, what the API server calls 10.77.0.N is a server at 127.0.0.N.
"""

import asyncio
import logging
import re
import shlex
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.proxy import wait_until
from tests.rendered_chart import find, render
from tests.servers import Server

from sampler_api.errors import SamplerClosed
from sampler_api.names import CLIENT_ROLE
from sampler_client.discovery import Endpoint
from sampler_client.discovery.k8s import K8sDiscovery
from sampler_client.discovery.kube_access import opened_access
from sampler_client.discovery.slices import ApiError, EndpointSlices
from sampler_client.fleet import Fleet
from sampler_client.settings import ClientSettings
from sampler_core.base import SamplerBase

SECONDS = 30
JOB = Path(__file__).parents[2] / "manifests" / "examples" / "job.yaml"
READY = {"ready": True, "serving": True, "terminating": False}
DRAINS = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}


def no_name(host: str, port: int) -> Sequence[str]:
    raise OSError(f"nobody knows {host}")


class SlicesOfFleet:
    """The EndpointSlices of the fleet ``sim``, written by the test."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._client = server.client
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    def put(self, name: str, *numbers: int, port: int = 8000, engines: int = 1) -> None:
        """A slice with the ready addresses 10.77.0.N."""
        self.write(name, dict.fromkeys(numbers, READY), port=port, engines=engines)

    def write(
        self, name: str, conditions: dict[int, Object], *, port: int = 8000, engines: int = 1
    ) -> None:
        """A slice with these addresses."""
        label = {"kubernetes.io/service-name": "sim-replicas"}
        ports = [
            {"name": f"data-{n}" if n else "data", "port": port + n, "protocol": "TCP"}
            for n in range(engines)
        ]
        said = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": label},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [
                {"addresses": [f"10.77.0.{number}"], "conditions": each}
                for number, each in conditions.items()
            ],
        }
        self._client.apply(f"{self._path}/{name}", said)

    def delete(self, name: str) -> None:
        """The slice goes."""
        self._client.delete(f"{self._path}/{name}")


@pytest.fixture
def slices(api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> SlicesOfFleet:
    """Of a fleet without replicas; discoveries of the test are the administrator's."""
    monkeypatch.setenv("KUBECONFIG", str(api_server.admin_kubeconfig))
    return SlicesOfFleet(api_server, namespace)


@pytest.fixture
def restarted(api_server: ApiServer) -> Iterator[None]:
    """Controllers are back for the next test, after one that stopped the API server."""
    yield
    api_server.restart_controllers()


Sets = AsyncGenerator[frozenset[Endpoint]]


async def following(sets: Sets) -> list[str]:
    """The next set, short: ``1:8000`` is http://10.77.0.1:8000."""
    async with asyncio.timeout(SECONDS):
        found = await anext(sets)
    return [endpoint.url.removeprefix("http://10.77.0.") for endpoint in sorted(found)]


# What slices say


async def test_slices_that_come_change_and_go_are_followed(
    slices: SlicesOfFleet, namespace: str
) -> None:
    found = K8sDiscovery(f"k8s://{namespace}/sim")
    async with aclosing(found.watch()) as sets:
        assert await following(sets) == []
        assert "no replica of Service sim-replicas is ready" in found.description
        slices.put("a", 1, 2)
        assert await following(sets) == ["1:8000", "2:8000"]
        assert found.description == f"k8s://{namespace}/sim"
        slices.put("b", 3, engines=2)
        assert await following(sets) == ["1:8000", "2:8000", "3:8000", "3:8001"]
        slices.write("a", {1: DRAINS, 2: READY})
        assert await following(sets) == ["2:8000", "3:8000", "3:8001"]
        slices.write("a", {2: UNREADY, 4: UNREADY})
        assert await following(sets) == ["3:8000", "3:8001"]
        slices.write("a", {2: UNREADY, 4: READY})
        assert await following(sets) == ["3:8000", "3:8001", "4:8000"]
        slices.delete("b")
        assert await following(sets) == ["4:8000"]


async def test_slices_of_other_services_are_no_replicas(
    api_server: ApiServer, slices: SlicesOfFleet, namespace: str
) -> None:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    for label in ("sim", "another-replicas"):
        metadata = {"name": label, "labels": {"kubernetes.io/service-name": label}}
        ports = [{"name": "data", "port": 8000}]
        address = {"addresses": ["10.77.0.9"]}
        api_server.client.post(
            path,
            {"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": [address]},
        )
    slices.put("a", 1)
    async with aclosing(K8sDiscovery(f"k8s://{namespace}/sim").watch()) as sets:
        assert await following(sets) == ["1:8000"]


async def test_a_watch_that_ends_as_asked_goes_on_without_a_list(
    slices: SlicesOfFleet, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampler_client.discovery.k8s._WATCH_SECONDS", 2)
    asked: list[str] = []
    real = httpx.AsyncClient.stream

    def noted(self: httpx.AsyncClient, method: str, path: str, **rest: Any) -> Any:
        asked.append("watch" if "watch" in rest["params"] else "list")
        return real(self, method, path, **rest)

    monkeypatch.setattr(httpx.AsyncClient, "stream", noted)
    async with aclosing(K8sDiscovery(f"k8s://{namespace}/sim", draw=lambda: 0.0).watch()) as sets:
        await following(sets)
        for number in range(1, 4):
            waiting, before = asyncio.ensure_future(following(sets)), len(asked)
            await asyncio.to_thread(wait_until, lambda n=before: len(asked) > n, "another watch")  # type: ignore[misc]
            slices.put("a", number)
            assert await waiting == [f"{number}:8000"]
    assert asked.count("list") == 1


# The API server fails


@pytest.mark.timeout(150)  # the API server starts anew
@pytest.mark.usefixtures("restarted")
async def test_an_outage_that_forgets_the_past_changes_nothing_until_the_next_list(
    api_server: ApiServer,
    slices: SlicesOfFleet,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slices.put("a", 1)
    found = K8sDiscovery(f"k8s://{namespace}/sim", draw=lambda: 0.0)
    async with aclosing(found.watch()) as sets:
        assert await following(sets) == ["1:8000"]
        waiting = asyncio.ensure_future(anext(sets))
        await asyncio.sleep(0)
        await asyncio.to_thread(api_server.stop_api)
        await asyncio.to_thread(api_server.compact)
        await asyncio.to_thread(
            wait_until, lambda: "cannot be reached" in found.description, "it is noticed"
        )
        assert caplog.text.count("cannot be reached") == 1
        await asyncio.to_thread(api_server.start_api)
        await asyncio.to_thread(slices.put, "a", 1, 2)
        async with asyncio.timeout(SECONDS):
            assert len(await waiting) == 2
        assert found.description == f"k8s://{namespace}/sim"
        slices.put("a", 2)
        assert await following(sets) == ["2:8000"]


@pytest.mark.timeout(150)  # the API server starts anew
@pytest.mark.usefixtures("restarted")
async def test_a_watch_from_a_forgotten_version_ends_with_an_error(
    api_server: ApiServer, slices: SlicesOfFleet, namespace: str
) -> None:
    slices.put("a", 1)
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    async with opened_access() as api:
        known = EndpointSlices(await api.get(path, {}))
    slices.put("a", 2)
    api_server.stop_api()
    api_server.compact()
    api_server.start_api()
    query = {"resourceVersion": known.version}

    async def listen() -> None:
        async with opened_access() as api, aclosing(api.watch(path, query, 5)) as lines:
            async for line in lines:
                known.take(line)

    with pytest.raises(ApiError, match="ended with 410"):
        await listen()


async def test_a_list_that_hangs_is_given_up_and_asked_for_again(
    api_server: ApiServer,
    slices: SlicesOfFleet,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sampler_client.discovery.kube_access._ANSWER_SECONDS", 0.3)
    slices.put("a", 1)
    found = K8sDiscovery(f"k8s://{namespace}/sim", resolve=no_name)
    async with aclosing(found.watch()) as sets:
        with api_server.frozen_api():
            waiting = asyncio.ensure_future(following(sets))
            await asyncio.to_thread(
                wait_until, lambda: "does not answer in time" in found.description, "it hangs"
            )
            monkeypatch.setattr("sampler_client.discovery.kube_access._ANSWER_SECONDS", 15)
        assert await waiting == ["1:8000"]


@pytest.mark.parametrize("is_watching", [True, False], ids=["a watch", "a list that hangs"])
def test_a_client_may_be_closed_at_any_moment_of(
    is_watching: bool, api_server: ApiServer, slices: SlicesOfFleet, namespace: str
) -> None:
    # What is left open when the client's loop ends is a warning, and so an error here.
    found = K8sDiscovery(f"k8s://{namespace}/sim", resolve=no_name)
    with ExitStack() as stack:
        if not is_watching:
            stack.enter_context(api_server.frozen_api())
        connected: list[str] = []
        real = found._by_slices

        def begun() -> AsyncGenerator[frozenset[Endpoint]]:
            connected.append("begun")
            return real()

        found._by_slices = begun  # type: ignore[method-assign]
        with sampling(found) as sampler:
            caller = threading.Thread(target=lambda: closed(sampler))
            caller.start()
            wait_until(lambda: connected and (found._has_listed or not is_watching), "it asks")
        caller.join(SECONDS)
        assert not caller.is_alive()


def closed(sampler: SamplerBase) -> None:
    with pytest.raises(SamplerClosed):
        ask(sampler)


# Sampling


class NearDiscovery:
    """A discovery whose addresses 10.77.0.N are loopback addresses."""

    def __init__(self, far: K8sDiscovery) -> None:
        self._far = far
        self.fleet = far.fleet
        self.certificate_name = ""

    @property
    def description(self) -> str:
        return self._far.description

    async def watch(self) -> AsyncIterator[frozenset[Endpoint]]:
        async with aclosing(self._far.watch()) as sets:
            async for found in sets:
                yield frozenset(
                    Endpoint(each.url.replace("//10.77.0.", "//127.0.0.")) for each in found
                )


@contextmanager
def sampling(found: K8sDiscovery) -> Iterator[SamplerBase]:
    settings = ClientSettings(tick=0.05, reconnect_delay=0.02, reconnect_delay_max=0.1)
    with SamplerBase(Fleet(NearDiscovery(found), settings)) as sampler:
        yield sampler


def ask(sampler: SamplerBase, tokens: int = 2) -> set[str]:
    """Sample, and say which replicas did it."""
    params: dict[str, Any] = {"max_tokens": tokens, "seed": 1}
    responses = sampler.sample([{"input_ids": [number]} for number in range(1, 9)], params)
    assert all(len(sequence.tokens) == tokens for sequence in responses.sequences)
    return {segment.replica for s in responses.sequences for segment in s.segments}


@pytest.mark.timeout(150)  # the API server starts anew
@pytest.mark.usefixtures("restarted")
def test_sampling_goes_on_while_the_api_server_is_down_and_follows_it_again(
    api_server: ApiServer, slices: SlicesOfFleet, namespace: str
) -> None:
    with Server("--sim-decode-rate", "40") as first:
        port = first.data.number
        here = ("--host", "127.0.0.2", "--port", str(port), "--manage-host", "127.0.0.1")
        found = K8sDiscovery(f"k8s://{namespace}/sim")
        with Server("--sim-decode-rate", "40", *here) as second, sampling(found) as sampler:
            slices.put("a", 1, port=port)
            assert ask(sampler) == {first.name}
            api_server.stop_api()
            wait_until(lambda: "cannot be reached" in found.description, "the outage is noticed")
            # 10 seconds of tokens.
            assert ask(sampler, tokens=400) == {first.name}
            api_server.start_api()
            slices.put("a", 2, port=port)
            other = second.status()["replica"]
            wait_until(lambda: ask(sampler) == {other}, "the other replica is used", SECONDS)
            # Pods of the fleet itself drain behind this; here nothing ran any more.
            wait_until(lambda: first.status()["sessions"] == 0, "the first is let go")


def test_an_address_that_a_pod_of_another_fleet_has_now_is_left_alone(
    slices: SlicesOfFleet,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for variable, value in (
        ("SAMPLER_POD_NAMESPACE", namespace),
        ("SAMPLER_FLEET_NAME", "judge"),
        ("SAMPLER_FLEET_UID", "u-1"),
    ):
        monkeypatch.setenv(variable, value)
    with Server() as stranger:
        monkeypatch.setenv("SAMPLER_FLEET_NAME", "sim")
        port = stranger.data.number
        here = ("--host", "127.0.0.2", "--port", str(port), "--manage-host", "127.0.0.1")
        with sampling(K8sDiscovery(f"k8s://{namespace}/sim")) as sampler:
            # It is the first to answer, and all the same it decides nothing.
            slices.put("a", 1, port=port)
            done: list[set[str]] = []
            caller = threading.Thread(target=lambda: done.append(ask(sampler)))
            caller.start()
            told = f"belongs to fleet {namespace}/judge, not {namespace}/sim"
            wait_until(lambda: told in caplog.text, "it is told")
            with Server(*here) as ours:
                slices.put("a", 1, 2, port=port)
                caller.join(SECONDS)
                assert done == [{ours.status()["replica"]}]
    assert caplog.text.count(told) == 1


# Rights


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
