"""The adapter store against an engine that keeps a diary: what is loaded, held and let go."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tests import adapter_world
from tests.adapter_world import World, digest_of
from tests.raw_adapters import (
    SHAPES,
    adapter_config,
    raw_snapshot,
    write_adapter,
)

from sampler_api.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterInvalid,
    AdapterMissing,
    AdapterUnsupported,
)
from sampler_api.frames import RevisionRef
from sampler_core.adapters import AdapterSnapshot, zero_adapter

world = adapter_world.world


async def test_an_adapter_is_loaded_once_from_the_store_and_held(world: World) -> None:
    ref = world.ref(1)
    await world.store.acquire(ref)
    await world.store.acquire(ref)
    assert world.engine.entries == [("load", ref.adapter)]
    assert world.store.held() == {ref.adapter: "policy-1"}
    name = f"load adapter {ref.adapter}"
    assert world.operations == [f"begin {name}", f"end {name}"]


async def test_the_base_needs_nothing(world: World) -> None:
    await world.store.acquire(RevisionRef("sha256:base"))
    assert world.engine.entries == []


async def test_requests_at_the_same_time_share_one_load(world: World) -> None:
    ref = world.ref(1)
    await asyncio.gather(*(world.store.acquire(ref) for _ in range(20)))
    assert world.engine.entries == [("load", ref.adapter)]
    for _ in range(20):
        world.store.release(digest_of(ref))
    with pytest.raises(ValueError, match="more often"):
        world.store.release(digest_of(ref))


async def test_the_loop_goes_on_while_an_adapter_is_loaded(world: World) -> None:
    world.engine.gate = threading.Event()
    waiting = asyncio.create_task(world.store.acquire(world.ref(1)))
    await asyncio.to_thread(world.engine.is_loading.wait, 10)
    assert not waiting.done()
    world.engine.gate.set()
    await waiting


async def test_the_least_recently_used_revision_makes_room(world: World) -> None:
    one, two, three = (world.ref(seed) for seed in (1, 2, 3))
    for ref in (one, two, one):
        await world.store.acquire(ref)
        world.store.release(digest_of(ref))
    await world.store.acquire(three)
    assert world.engine.entries[2:] == [("unload", two.adapter), ("load", three.adapter)]
    assert set(world.store.held()) == {one.adapter, three.adapter}


async def test_when_all_are_in_use_the_next_is_told_so_and_none_is_thrown_out(
    world: World,
) -> None:
    one, two, three = (world.ref(seed) for seed in (1, 2, 3))
    await world.store.acquire(one)
    await world.store.acquire(two)
    with pytest.raises(AdapterCapacity, match="all 2 adapter slots"):
        await world.store.acquire(three)
    assert set(world.store.held()) == {one.adapter, two.adapter}
    world.store.release(digest_of(one))
    await world.store.acquire(three)
    assert set(world.store.held()) == {two.adapter, three.adapter}


async def test_a_stored_revision_needs_no_path_any_more(world: World) -> None:
    ref = world.ref(1)
    await world.store.acquire(ref)
    shutil.rmtree(str(ref.path))
    again = World.open(world)
    await again.acquire(RevisionRef(ref.base, ref.adapter))
    assert world.engine.entries == [("load", ref.adapter)] * 2


async def test_an_overwritten_directory_is_never_served_for_the_old_digest(world: World) -> None:
    ref = world.ref(1)
    write_adapter(Path(str(ref.path)), 2)
    found = raw_snapshot(2).digest
    with pytest.raises(AdapterMissing, match=f"expected adapter {ref.adapter}, found {found}"):
        await world.store.acquire(ref)
    assert world.engine.entries == []


async def test_overwriting_after_the_load_changes_nothing(world: World) -> None:
    ref = world.ref(1)
    await world.store.acquire(ref)
    write_adapter(Path(str(ref.path)), 2)
    again = world.open()
    await again.acquire(ref)
    assert [entry for entry, _ in world.engine.entries] == ["load", "load"]


async def test_two_loads_never_take_the_same_slot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.open(max_adapters=1)
    put, stored = store._stored.put, threading.Semaphore(0)

    def noted(snapshot: AdapterSnapshot) -> Path:
        path = put(snapshot)
        stored.release()
        return path

    monkeypatch.setattr(store._stored, "put", noted)
    world.engine.gate = threading.Event()
    one, two = world.ref(1), world.ref(2)
    first = asyncio.create_task(store.acquire(one))
    await asyncio.to_thread(world.engine.is_loading.wait, 10)
    second = asyncio.create_task(store.acquire(two))
    for _ in range(2):
        assert await asyncio.to_thread(stored.acquire, timeout=10)
    for _ in range(3):
        await asyncio.to_thread(int)  # what the second does before it takes a slot is over
    world.engine.gate.set()
    await first
    with pytest.raises(AdapterCapacity):
        await second
    assert world.engine.entries == [("load", one.adapter)]


async def test_a_failed_load_leaves_room_and_is_tried_again(world: World) -> None:
    ref = world.ref(1)
    world.engine.error = AdapterInvalid("the engine does not like it")
    with pytest.raises(AdapterInvalid, match="does not like it"):
        await world.store.acquire(ref)
    assert world.store.held() == {}
    world.engine.error = None
    await world.store.acquire(ref)
    assert list(world.store.held()) == [ref.adapter]


async def test_a_failed_unload_leaves_the_old_revision_held(world: World) -> None:
    store = world.open(max_adapters=1)
    one, two = world.ref(1), world.ref(2)
    await store.acquire(one)
    store.release(digest_of(one))
    world.engine.error = RuntimeError("stuck")
    with pytest.raises(RuntimeError, match="stuck"):
        await store.acquire(two)
    assert list(store.held()) == [one.adapter]


async def test_a_request_that_goes_away_while_it_waits_holds_nothing(world: World) -> None:
    store = world.open(max_adapters=1)
    world.engine.gate = threading.Event()
    one, two = world.ref(1), world.ref(2)
    leaving, staying = (asyncio.create_task(store.acquire(one)) for _ in range(2))
    await asyncio.to_thread(world.engine.is_loading.wait, 10)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    world.engine.gate.set()
    await staying
    with pytest.raises(AdapterCapacity):
        await store.acquire(two)
    store.release(digest_of(one))
    await store.acquire(two)


async def test_when_every_request_went_away_the_load_ends_by_itself(world: World) -> None:
    store = world.open(max_adapters=1)
    world.engine.gate = threading.Event()
    one = world.ref(1)
    leaving = asyncio.create_task(store.acquire(one))
    await asyncio.to_thread(world.engine.is_loading.wait, 10)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    world.engine.gate.set()
    await store.close()
    assert list(store.held()) == [one.adapter]
    await store.acquire(world.ref(2))
    assert [entry for entry, _ in world.engine.entries] == ["load", "unload", "load"]


async def test_a_revision_wanted_again_while_it_goes_comes_back(world: World) -> None:
    store = world.open(max_adapters=1)
    one, two = world.ref(1), world.ref(2)
    await store.acquire(one)
    store.release(digest_of(one))

    async def use(ref: RevisionRef) -> None:
        while True:
            try:
                await store.acquire(ref)
            except AdapterCapacity:
                await asyncio.sleep(0)
                continue
            assert digest_of(ref) in store.held()
            store.release(digest_of(ref))
            return

    await asyncio.gather(*(use(ref) for ref in (two, one, two, one)))
    held: set[str] = set()
    for entry, digest in world.engine.entries:
        held = held | {digest} if entry == "load" else held - {digest}
        assert len(held) <= 1


async def test_the_zero_adapter_of_a_config_is_made_here_and_served_without_a_path(
    world: World,
) -> None:
    digest = await world.store.create(adapter_config())
    assert digest == zero_adapter(adapter_config(), SHAPES).digest
    await world.store.acquire(RevisionRef("sha256:base", digest, "fresh"))
    assert world.store.held() == {digest: "fresh"}


async def test_a_zero_adapter_that_the_disk_dropped_is_made_again(world: World) -> None:
    store = world.open(max_store_bytes=1)
    digest = await store.create(adapter_config())
    await store.acquire(world.ref(1))
    assert len(list(world.store_dir.iterdir())) == 1
    await store.acquire(RevisionRef("sha256:base", digest))
    assert world.engine.entries[-1] == ("load", digest)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (adapter_config(target_modules=["Wqkv"]), AdapterInvalid, "selects no linear module"),
        (adapter_config(r=0), AdapterInvalid, "r must be a rank"),
        (adapter_config(r=64), AdapterUnsupported, "rank 64 .* more than the 8"),
        (adapter_config(use_dora=True), AdapterUnsupported, "use_dora is not served"),
        (adapter_config(bias="all"), AdapterUnsupported, "trained biases"),
        (adapter_config(target_modules=["lm_head"]), AdapterUnsupported, "output layer"),
    ],
)
async def test_a_config_that_cannot_be_served_makes_no_adapter(
    config: dict[str, Any], error: type[AdapterError], message: str, world: World
) -> None:
    with pytest.raises(error, match=message):
        await world.store.create(config)
    assert list(world.store_dir.iterdir()) == []


async def test_without_the_shapes_of_the_base_no_adapter_is_made(world: World) -> None:
    with pytest.raises(AdapterUnsupported, match="does not know its base's modules"):
        await world.open(shapes=None).create(adapter_config())
