"""What a replica says of itself: to the operator by ``/status``, to clients in the hello."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from tests.raw_session import opened
from tests.servers import Server

from sampler_api.fleet import ReplicaStatus
from sampler_server.auth import Access
from sampler_server.declaration import Declaration
from sampler_server.engines.sim import SimEngine, base_digest
from sampler_server.hub import Hub
from sampler_server.routes.manage import create_manage_app
from sampler_server.settings import ServeSettings
from sampler_server.status import ManagedReplica
from sampler_server.websocket import Sessions


class Replica:
    """A hub over an engine that has not started, and its management port."""

    def __init__(self) -> None:
        self.hub = Hub(SimEngine())
        self.sessions = Sessions(self.hub, ServeSettings(replica="pod-1"), Access())
        managed = ManagedReplica(
            self.hub, self.sessions, Declaration(None, ""), "rl/policy/1", lambda reason: None
        )
        app = create_manage_app(managed, Access())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod")

    async def status(self) -> ReplicaStatus:
        return msgspec.json.decode((await self.http.get("/status")).content, type=ReplicaStatus)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    async with replica.http:
        yield replica
    if replica.hub.is_open:
        await replica.hub.close()
        replica.hub.engine.close()


async def test_a_replica_whose_engine_loads_says_so_and_who_it_is(replica: Replica) -> None:
    status = await replica.status()
    assert (status.ready, status.reason) == (False, "the engine is loading")
    assert (status.replica, status.fleet) == ("pod-1", "rl/policy/1")
    assert (status.base, status.load) == (None, None)
    assert (await replica.http.get("/readyz")).status_code == 503
    assert (await replica.http.get("/startupz")).status_code == 503


async def test_a_replica_that_serves_shows_its_model_and_load(replica: Replica) -> None:
    before = await replica.status()
    await asyncio.to_thread(replica.hub.engine.start, replica.hub.sink)
    replica.hub.open()
    status = await replica.status()
    assert (status.ready, status.reason) == (True, "")
    assert status.base == base_digest()
    assert status.load is not None
    assert status.load.slots > 0
    assert status.incarnation == before.incarnation
    assert (await replica.http.get("/readyz")).status_code == 200


async def test_a_draining_replica_is_not_ready(replica: Replica) -> None:
    replica.hub.is_draining = True
    status = await replica.status()
    assert (status.ready, status.draining, status.reason) == (False, True, "draining")


async def test_pod_and_fleet_of_the_environment_are_in_hello_and_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAMPLER_POD_NAME", "policy-7")
    monkeypatch.setenv("SAMPLER_POD_NAMESPACE", "rl")
    monkeypatch.setenv("SAMPLER_FLEET_NAME", "policy")
    monkeypatch.setenv("SAMPLER_FLEET_UID", "u-1")
    with Server() as server:
        status = server.status()
        assert (status["replica"], status["fleet"]) == ("policy-7", "rl/policy/u-1")
        async with opened(server.session_url) as session:
            assert (session.hello.replica, session.hello.fleet) == ("policy-7", "rl/policy/u-1")
