"""EndpointSlices that a test writes, and clients that follow them.

Slices cannot have loopback addresses, and nothing answers at those of these tests. Where tests
sample, what the API server calls 10.77.0.N is a server at 127.0.0.N.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object

from sampler_client.discovery import Endpoint
from sampler_client.discovery.k8s import K8sDiscovery
from sampler_client.fleet import Fleet
from sampler_client.settings import ClientSettings
from sampler_core.base import SamplerBase

__all__ = [
    "DRAINS",
    "READY",
    "SECONDS",
    "UNREADY",
    "Sets",
    "SlicesOfFleet",
    "ask",
    "following",
    "no_name",
    "sampling",
    "slices",
]

SECONDS = 30
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


Sets = AsyncGenerator[frozenset[Endpoint]]


async def following(sets: Sets) -> list[str]:
    """The next set, short: ``1:8000`` is http://10.77.0.1:8000."""
    async with asyncio.timeout(SECONDS):
        found = await anext(sets)
    return [endpoint.url.removeprefix("http://10.77.0.") for endpoint in sorted(found)]


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
