"""Which adapters vLLM holds after its weights were replaced, where one is let go meanwhile. No vLLM
runs here: what it is asked for is noted."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampler_server.engines.vllm.adapters import VllmAdapters

SHAPES = {"model.layers.0.self_attn.q_proj": (8, 8)}


class Engine:
    """Holds the numbers of adapters; ``during`` runs once, inside a call."""

    errored = False

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.during: Callable[[], Awaitable[None]] | None = None

    async def add_lora(self, request: Any) -> None:
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        self.held.add(request.lora_int_id)

    async def remove_lora(self, number: int) -> bool:
        found = number in self.held
        self.held.discard(number)
        return found


async def replaced(adapters: VllmAdapters, scratch: Path) -> set[int]:
    """What ``Flow.update_weights`` does with adapters; those that vLLM holds while it warms up."""
    engine: Any = adapters._engine
    seen: set[int] = set()

    async def warm_up(lora: Any) -> None:
        if lora is None:
            seen.update(engine.held)

    async with adapters.alone():
        await adapters.forget_all()
        await adapters.prepare(scratch, SHAPES, warm_up)
        await adapters.hold_again()
    return seen


async def started(*digests: str) -> tuple[Engine, VllmAdapters]:
    engine = Engine()
    adapters = VllmAdapters(engine, 2, 2, is_cpu=False)
    for digest in digests:
        await adapters.load(digest, Path("/nowhere"))
    return engine, adapters


async def in_the_background(adapters: VllmAdapters, digest: str) -> asyncio.Task[None]:
    """Let an adapter go, as far as that comes meanwhile."""
    task = asyncio.create_task(adapters.unload(digest))
    await asyncio.sleep(0)
    assert adapters.find(digest) is None
    return task


@pytest.mark.parametrize("number", [0, 1], ids=["before it is loaded again", "meanwhile"])
async def test_what_is_let_go_meanwhile_does_not_come_back(tmp_path: Path, number: int) -> None:
    engine, adapters = await started("a", "b")
    tasks: list[asyncio.Task[None]] = []

    async def let_go() -> None:
        tasks.append(await in_the_background(adapters, "ba"[number]))

    holding = adapters.hold_again

    async def hold_again() -> None:
        engine.during = let_go
        await holding()

    adapters.hold_again = hold_again  # type: ignore[method-assign]
    await replaced(adapters, tmp_path)
    await tasks[0]
    kept = adapters.find("ab"[number])
    assert kept is not None
    assert adapters.find("ba"[number]) is None
    assert engine.held == {kept.lora_int_id}
    # Its place is free.
    await adapters.load("c", Path("/nowhere"))


async def test_what_waits_to_be_let_go_is_not_there_when_slots_are_filled(tmp_path: Path) -> None:
    """On a CPU the order in which they are filled decides what rows of the base get."""
    engine, adapters = await started("a")
    request = adapters.find("a")
    assert request is not None
    async with adapters.alone():
        leaving = await in_the_background(adapters, "a")
        await adapters.forget_all()
        assert engine.held == set()
    await leaving
    assert engine.held == set()
