"""The adapter store against an engine that keeps a diary: what is loaded, and what never is."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.raw_adapters import (
    SHAPES,
    adapter_config,
    adapter_state,
    raw_snapshot,
    write_adapter,
)

from sampler_api.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterInvalid,
    AdapterMissing,
    AdapterUnsupported,
    SamplerError,
)
from sampler_api.frames import RevisionRef
from sampler_core.adapters import AdapterSnapshot, snapshot_adapter, zero_adapter
from sampler_server.adapters import AdapterStore
from sampler_server.engines.base import Engine, EngineInfo

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


class Diary:
    """Stands for an engine: writes down loads and unloads, with the digest of what it was given."""

    info = EngineInfo("torch", "m", 32, 64, 4, 256, (0,), "sha256:base")

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.is_loading = threading.Event()

    def load_adapter(self, digest: str, directory: Path) -> None:
        self.is_loading.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        assert snapshot_adapter(directory).digest == digest
        self.entries.append(("load", digest))

    def unload_adapter(self, digest: str) -> None:
        if self.error is not None:
            raise self.error
        self.entries.append(("unload", digest))


class World:
    """A root with adapters, a place outside, an engine, and a store over them."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.root.mkdir()
        self.outside = base / "elsewhere"
        self.store_dir = base / "store"
        self.engine = Diary()
        self.operations: list[str] = []
        self.store = self.open()

    def open(self, max_adapters: int = 2, **values: Any) -> AdapterStore:
        values = {"roots": [self.root], "shapes": SHAPES, "max_rank": 8, **values}
        self.store = AdapterStore(
            self.store_dir,
            engine=cast(Engine, self.engine),
            max_adapters=max_adapters,
            operation=self.operation,
            **values,
        )
        return self.store

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        self.operations.append(f"begin {name}")
        yield
        self.operations.append(f"end {name}")

    def ref(self, seed: int, path: Path | None = None, **values: Any) -> RevisionRef:
        """The revision of a new adapter below the root."""
        directory = path or self.root / f"step-{seed}"
        write_adapter(directory, seed, **values)
        digest = snapshot_adapter(directory).digest
        return RevisionRef("sha256:base", digest, f"policy-{seed}", str(directory))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def digest_of(ref: RevisionRef) -> str:
    assert ref.adapter is not None
    return ref.adapter


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


def outside_the_roots(world: World, ref: RevisionRef) -> str:
    return str(write_adapter(world.outside / "a", 1))


def above_the_root(world: World, ref: RevisionRef) -> str:
    write_adapter(world.outside / "a", 1)
    return f"{world.root}/../elsewhere/a"


def linked_out_of_the_roots(world: World, ref: RevisionRef) -> str:
    (world.root / "link").symlink_to(write_adapter(world.outside / "a", 1))
    return str(world.root / "link")


def file_linked_out_of_the_roots(world: World, ref: RevisionRef) -> str:
    source = write_adapter(world.outside / "a", 1)
    target = write_adapter(world.root / "b", 1)
    (target / TENSORS).unlink()
    (target / TENSORS).symlink_to(source / TENSORS)
    return str(target)


def relative(world: World, ref: RevisionRef) -> str:
    return "step-1"


def gone(world: World, ref: RevisionRef) -> str:
    return str(world.root / "gone")


def with_nul(world: World, ref: RevisionRef) -> str:
    return f"{world.root}/a\0b"


def pickled(world: World, ref: RevisionRef) -> str:
    directory = Path(str(ref.path))
    (directory / TENSORS).rename(directory / "adapter_model.bin")
    return str(directory)


def truncated(world: World, ref: RevisionRef) -> str:
    file = Path(str(ref.path)) / TENSORS
    file.write_bytes(file.read_bytes()[:-8])
    return str(ref.path)


def half_a_config(world: World, ref: RevisionRef) -> str:
    (Path(str(ref.path)) / CONFIG).write_text("{")
    return str(ref.path)


def other_method(world: World, ref: RevisionRef) -> str:
    write_adapter(Path(str(ref.path)), 1, config=adapter_config(peft_type="IA3"))
    return str(ref.path)


def no_path(world: World, ref: RevisionRef) -> None:
    return None


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        pytest.param(
            outside_the_roots, AdapterInvalid, r"elsewhere/a: outside the adapter roots \(.*root\)"
        ),
        pytest.param(above_the_root, AdapterInvalid, r"elsewhere/a: outside the adapter roots"),
        pytest.param(
            linked_out_of_the_roots,
            AdapterInvalid,
            "root/link: a symlink leads outside",
        ),
        pytest.param(
            file_linked_out_of_the_roots,
            AdapterInvalid,
            f"b/{TENSORS}: a symlink leads outside the adapter roots",
        ),
        pytest.param(relative, AdapterInvalid, "step-1: must be an absolute path"),
        pytest.param(with_nul, AdapterInvalid, "cannot be read"),
        pytest.param(gone, AdapterMissing, r"root/gone: does not exist \(adapter roots: .*root\)"),
        pytest.param(no_path, AdapterMissing, "not held here, and the request names no directory"),
        pytest.param(pickled, AdapterMissing, "is a pickle.*safe_serialization=True.*overwritten"),
        pytest.param(truncated, AdapterMissing, f"{TENSORS}: truncated"),
        pytest.param(half_a_config, AdapterMissing, f"{CONFIG}: malformed JSON"),
        pytest.param(other_method, AdapterMissing, "'IA3' is not served"),
    ],
)
async def test_a_path_that_does_not_hold_the_revision_is_refused_on_that_request_alone(
    spoil: Callable[[World, RevisionRef], str | None],
    error: type[SamplerError],
    message: str,
    world: World,
) -> None:
    good, bad = world.ref(2), world.ref(1)
    await world.store.acquire(good)
    path = spoil(world, bad)
    with pytest.raises(error, match=message):
        await world.store.acquire(RevisionRef(bad.base, bad.adapter, path=path))
    assert world.engine.entries == [("load", good.adapter)]
    assert list(world.store.held()) == [good.adapter]
    assert len(list(world.store_dir.iterdir())) == 1


DEEPER = "base_model.model.model.layers.7.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        pytest.param(
            {
                "state": {
                    name: np.zeros((2, 96), np.float32) if "lora_A" in name else value
                    for name, value in adapter_state().items()
                }
            },
            AdapterInvalid,
            r"has shape \(2, 96\); expected \(2, 6\)",
            id="wrong shapes",
        ),
        pytest.param(
            {
                "state": {
                    **adapter_state(),
                    DEEPER + "A.weight": np.zeros((2, 6), np.float32),
                    DEEPER + "B.weight": np.zeros((8, 2), np.float32),
                }
            },
            AdapterInvalid,
            "layers.7.self_attn.q_proj', which the base does not have",
            id="a deeper model",
        ),
        pytest.param(
            {"state": adapter_state(rank=16), "config": adapter_config(r=16)},
            AdapterUnsupported,
            "rank 16 of .* is more than the 8",
            id="a rank above the engine's",
        ),
        pytest.param(
            {"config": adapter_config(use_dora=True)},
            AdapterUnsupported,
            "not served here: DoRA",
            id="a kind that the engine does not serve",
        ),
    ],
)
async def test_an_adapter_that_does_not_fit_never_reaches_the_engine(
    values: dict[str, Any], error: type[AdapterError], message: str, world: World
) -> None:
    ref = world.ref(1, **values)
    with pytest.raises(error, match=message) as caught:
        await world.store.acquire(ref)
    assert str(ref.path) in str(caught.value)
    assert world.engine.entries == []
    assert list(world.store_dir.iterdir()) == []


@pytest.mark.parametrize(
    "digest", ["sha256:abc", "../../etc", "", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "/.."]
)
async def test_a_digest_that_is_none_is_refused(digest: str, world: World) -> None:
    with pytest.raises(AdapterInvalid, match="is no sha256 digest") as caught:
        await world.store.acquire(RevisionRef("sha256:base", digest, path=str(world.root)))
    assert caught.value.field == "revision"


async def test_without_roots_no_path_is_read(world: World) -> None:
    ref = world.ref(1)
    with pytest.raises(AdapterMissing, match="serve with an --adapter-root"):
        await world.open(roots=[]).acquire(ref)


async def test_a_bad_path_of_one_request_does_not_fail_another_with_a_good_one(
    world: World,
) -> None:
    good = world.ref(1)
    bad = RevisionRef(good.base, good.adapter, path=str(world.root / "gone"))
    results = await asyncio.gather(
        *(world.store.acquire(ref) for ref in (bad, good, good, bad)), return_exceptions=True
    )
    assert [results[1], results[2]] == [None, None]
    assert isinstance(results[0], AdapterMissing)
    assert world.engine.entries == [("load", good.adapter)]


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
