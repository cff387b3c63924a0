"""``k8s://NAMESPACE/NAME`` and a real API server: slices that change, and outages."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import httpx
import pytest
from tests import fleet_slices
from tests.apiserver import ApiServer
from tests.fleet_slices import (
    DRAINS,
    READY,
    SECONDS,
    UNREADY,
    SlicesOfFleet,
    ask,
    following,
    no_name,
    sampling,
)
from tests.proxy import wait_until
from tests.servers import Server

from sampler_api.errors import SamplerClosed
from sampler_client.discovery import Endpoint
from sampler_client.discovery.k8s import K8sDiscovery
from sampler_client.discovery.kube_access import opened_access
from sampler_client.discovery.slices import ApiError, EndpointSlices
from sampler_core.base import SamplerBase

slices = fleet_slices.slices


@pytest.fixture
def restarted(api_server: ApiServer) -> Iterator[None]:
    """Controllers are back for the next test, after one that stopped the API server."""
    yield
    api_server.restart_controllers()


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
