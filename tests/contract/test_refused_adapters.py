"""Adapters that the store refuses: paths, files and kinds that it does not serve, each on its own
request alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import adapter_world
from tests.adapter_world import World
from tests.raw_adapters import (
    adapter_config,
    adapter_state,
    write_adapter,
)

from sampler_api.errors import (
    AdapterError,
    AdapterInvalid,
    AdapterMissing,
    AdapterUnsupported,
    SamplerError,
)
from sampler_api.frames import RevisionRef

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
world = adapter_world.world


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
