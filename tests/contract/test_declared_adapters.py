"""Declared adapters and the base of a pod template, at a running replica."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.proxy import wait_until
from tests.raw_adapters import write_adapter
from tests.raw_session import opened
from tests.servers import Server
from websockets.exceptions import InvalidStatus

from sampler_api.errors import AdapterCapacity
from sampler_api.fleet import AdaptersConfig, AdapterState
from sampler_api.frames import HANDED_OVER, RevisionRef
from sampler_core.adapters import snapshot_adapter
from sampler_core.seeds import child_seed
from sampler_server.adapters import AdapterStore
from sampler_server.declaration import Declaration
from sampler_server.engines.sim import SimEngine, base_digest
from sampler_server.engines.sim.tokens import sim_sequence

BASE = base_digest()
OTHER = "sha256:" + "0" * 64
WAIT_SECONDS = 20.0


class Fleet:
    """A volume with adapters, and the mounted file that declares some of them."""

    def __init__(self, base: Path) -> None:
        self.volume = base / "loras"
        self.volume.mkdir()
        self.mount = base / "config"
        self.mount.mkdir()
        self.hash = ""

    def save(self, name: str, seed: int) -> str:
        """Write an adapter into the volume; its digest."""
        return snapshot_adapter(write_adapter(self.volume / name, seed)).digest

    def entry(self, name: str, **values: Any) -> dict[str, Any]:
        return {"name": name, "path": str(self.volume / name), **values}

    def declare(self, *declared: dict[str, Any], **values: Any) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps({"declared": declared, **values})
        self.hash = msgspec.json.decode(text, type=AdaptersConfig).declared_hash
        draft = self.mount / "draft"
        draft.write_text(text)
        draft.rename(self.mount / "adapters.json")

    @property
    def options(self) -> tuple[str, ...]:
        return ("--adapters-config", str(self.mount), "--adapter-root", str(self.volume))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


# -- inside a replica ------------------------------------------------------------------------------


class Replica:
    """What follows the declaration, over a real store, with a clock that stands still."""

    def __init__(self, fleet: Fleet, store: AdapterStore) -> None:
        self.now = 0.0
        self.store = store
        self.is_expelled = asyncio.Event()
        self.declaration = Declaration(fleet.mount, "template-1", lambda: self.now, 0.01)
        self.declaration.look()
        self.declaration.begin(store, BASE)
        self.task = asyncio.create_task(self.declaration.run(self.expel))

    async def expel(self) -> None:
        self.is_expelled.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                assert not self.task.done()
                await asyncio.sleep(0.005)

    async def until_states(self, *states: str) -> tuple[AdapterState, ...]:
        """Wait until the declared adapters are in these states."""
        await self.until(
            lambda: tuple(s.state for s in self.declaration.declared.states()) == states
        )
        return self.declaration.declared.states()


@pytest.fixture
async def replica(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Replica]:
    engine = SimEngine()
    await asyncio.to_thread(engine.start, lambda deltas: None)
    store = AdapterStore(tmp_path / "store", [fleet.volume], engine, None, 2, 8)
    fleet.save("a", 1)
    fleet.declare(fleet.entry("a"))
    replica = Replica(fleet, store)
    yield replica
    replica.task.cancel()
    await asyncio.gather(replica.task, return_exceptions=True)
    await store.close()
    engine.close()


async def test_a_declared_adapter_is_never_pushed_out(replica: Replica, fleet: Fleet) -> None:
    (state,) = await replica.until_states("held")
    for seed in (2, 3):
        digest = fleet.save("other", seed)
        await replica.store.acquire(RevisionRef(BASE, digest, "", str(fleet.volume / "other")))
        replica.store.release(digest)
        assert set(replica.store.held()) == {state.digest, digest}


async def test_an_adapter_that_is_declared_no_more_makes_room(
    replica: Replica, fleet: Fleet
) -> None:
    (state,) = await replica.until_states("held")
    fleet.save("b", 2)
    fleet.save("c", 3)
    fleet.declare(fleet.entry("b"), fleet.entry("c"))
    await replica.until_states("held", "held")
    assert state.digest not in replica.store.held()
    third = fleet.save("third", 4)
    with pytest.raises(AdapterCapacity):
        await replica.store.acquire(RevisionRef(BASE, third, "", str(fleet.volume / "third")))


async def test_a_directory_that_appears_later_is_loaded_and_others_do_not_wait_for_it(
    replica: Replica, fleet: Fleet
) -> None:
    fleet.declare(fleet.entry("late"), fleet.entry("a"))
    failed, _ = await replica.until_states("failed", "held")
    assert "late" in failed.message
    assert "does not exist" in failed.message
    await replica.until(lambda: replica.declaration.declared.adapters_hash == fleet.hash)
    digest = fleet.save("late", 2)
    replica.now += 60
    late, _ = await replica.until_states("held", "held")
    assert (late.digest, late.message) == (digest, "")


async def test_what_is_written_over_a_declared_directory_changes_nothing(
    replica: Replica, fleet: Fleet
) -> None:
    (before,) = await replica.until_states("held")
    now = fleet.save("a", 2)
    fleet.save("b", 3)
    fleet.declare(fleet.entry("a"), fleet.entry("b"))
    after, _ = await replica.until_states("held", "held")
    assert after == before
    fleet.declare(fleet.entry("a", digest=now))
    await replica.until(lambda: replica.declaration.names() == {"a": now})


async def test_a_directory_with_other_weights_than_declared_is_not_loaded(
    replica: Replica, fleet: Fleet
) -> None:
    await replica.until_states("held")
    fleet.save("b", 2)
    fleet.declare(fleet.entry("b", digest=OTHER))
    (state,) = await replica.until_states("failed")
    assert f"expected adapter {OTHER}, found sha256:" in state.message


async def test_a_malformed_file_is_reported_and_the_last_good_one_stays(
    replica: Replica, fleet: Fleet
) -> None:
    before = await replica.until_states("held")
    (fleet.mount / "adapters.json").write_text('{"declared": 3}')
    await replica.until(lambda: bool(replica.declaration.error))
    assert "adapters.json" in replica.declaration.error
    assert "declared" in replica.declaration.error
    assert replica.declaration.declared.states() == before
    assert replica.declaration.reason() == ""
    fleet.declare(fleet.entry("a"), bases={})
    await replica.until(lambda: not replica.declaration.error)


async def test_a_base_that_is_disowned_is_expelled_once_and_may_come_back(
    replica: Replica, fleet: Fleet
) -> None:
    await replica.until_states("held")
    assert replica.declaration.reason() == ""
    fleet.declare(fleet.entry("a"), bases={"template-0": OTHER, "template-1": OTHER})
    await replica.is_expelled.wait()
    assert replica.declaration.reason() == f"base {BASE} differs from {OTHER} of this template"
    fleet.declare(fleet.entry("a"), bases={"template-0": OTHER, "template-1": BASE})
    await replica.until(lambda: replica.declaration.reason() == "")


# -- from the outside ------------------------------------------------------------------------------


def until(holds: Callable[[], bool]) -> None:
    wait_until(holds, "what the test waits for")


def test_declared_adapters_are_served_by_their_name(fleet: Fleet) -> None:
    digest = fleet.save("a", 1)
    fleet.declare(fleet.entry("a"))
    body = {"prompt": [7], "max_tokens": 5, "seed": 1, "return_token_ids": True}
    with Server(*fleet.options) as server:
        until(lambda: server.manage.get("/readyz")[0] == 200)
        status = server.status()
        assert status["adapters_hash"] == fleet.hash
        assert status["held"] == (digest,)
        models = [m["id"] for m in httpx.get(server.url + "/v1/models").json()["data"]]
        assert models == ["sim", "a", f"a@{digest}"]
        answer = httpx.post(server.url + "/v1/completions", json={"model": "a", **body}).json()
        tokens = sim_sequence([7], child_seed(1, 0, 0), BASE, digest, 5)[0]
        assert answer["choices"][0]["token_ids"] == tokens


def test_a_joiner_is_not_ready_before_it_holds_what_others_hold(fleet: Fleet) -> None:
    digest = fleet.save("elsewhere", 1)
    fleet.declare(fleet.entry("a"), required=[{"name": "a", "digest": digest}])
    with Server(*fleet.options) as server:
        until(lambda: server.status()["declared"][0].state == "failed")
        code, answer = server.manage.get("/readyz")
        assert code == 503
        assert f"a@{digest}" in answer["reason"]
        assert server.manage.get("/startupz")[0] == 200
        fleet.save("a", 1)
        until(lambda: server.manage.get("/readyz")[0] == 200)
        fleet.declare(fleet.entry("a"), fleet.entry("broken"), required=[])
        until(lambda: len(server.status()["declared"]) == 2)
        assert server.manage.get("/readyz")[0] == 200


async def test_a_replica_of_another_base_than_its_template_serves_nobody(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLER_TEMPLATE_HASH", "template-1")
    fleet.declare(bases={"template-1": OTHER})
    with Server(*fleet.options) as server:
        code, answer = server.manage.get("/readyz")
        assert (code, answer["reason"].partition(" differs")[0]) == (503, f"base {BASE}")
        code, answer = server.data.get("/v1/models")
        assert (code, answer["error"]["code"]) == (409, "base_mismatch")
        with pytest.raises(InvalidStatus):
            async with opened(server.session_url):
                pass


async def test_sequences_of_a_base_that_is_disowned_are_handed_over(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLER_TEMPLATE_HASH", "template-1")
    with Server(*fleet.options, "--sim-decode-rate", "100") as server:
        async with opened(server.session_url) as session:
            received = await session.at_least(await session.submit(0, max_tokens=5000), 3)
            fleet.declare(bases={"template-1": OTHER})
            assert (await session.ended(received)).flag == HANDED_OVER
        assert server.manage.get("/readyz")[0] == 503
