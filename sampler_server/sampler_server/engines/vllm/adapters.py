"""The adapters that vLLM holds: numbers that are never used again, and the zero adapter.

On a CPU vLLM applies to rows of the base, in a batch with rows of adapters, whatever is in the last
slot of adapters. So an adapter that changes nothing is pinned there, before anything else comes.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest

from sampler_api.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterInvalid,
    AdapterUnsupported,
    EngineDead,
)
from sampler_core.adapters import CONFIG_FILE, write_snapshot, zero_adapter

from .arguments import lora_targets
from .gate import AdapterGate

__all__ = ["VllmAdapters"]

log = logging.getLogger(__name__)

_PATTERNS = ("rank_pattern", "alpha_pattern")
_IGNORED = [name for name in _PATTERNS if name not in {f.name for f in fields(PEFTHelper)}]
"""Fields that this version of vLLM overlooks: it would serve other weights, without a word."""


class VllmAdapters:
    """Adapters by digest. All methods on the engine's loop.

    ``slots`` adapters share a step in vLLM; on a CPU one of them is the zero adapter. A digest is
    loaded from a directory that keeps its content until it is unloaded.
    """

    def __init__(self, engine: Any, capacity: int, slots: int, is_cpu: bool) -> None:
        self._engine = engine
        self._capacity = capacity
        self._slots = slots
        self._is_cpu = is_cpu
        self._numbers = itertools.count(1)
        self._held: dict[str, LoRARequest] = {}
        self._leaving: list[LoRARequest] = []
        """Not held any more, and not yet removed."""
        self._is_free = asyncio.Event()
        self._turn = asyncio.Lock()
        self._pinned: LoRARequest | None = None
        self.gate = AdapterGate(max(1, slots - 1) if is_cpu else None)

    def find(self, digest: str) -> LoRARequest | None:
        """What ``generate`` takes; ``None`` when it is not held."""
        return self._held.get(digest)

    async def prepare(
        self,
        scratch: Path,
        shapes: Mapping[str, tuple[int, int]],
        warm_up: Callable[[LoRARequest | None], Awaitable[None]],
    ) -> None:
        """Warm the engine up, with and without an adapter; on a CPU, pin the zero adapter."""
        if not self._slots:
            await warm_up(None)
            return
        targets = lora_targets(shapes)[:1]
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": targets}
        directory = scratch / "zero-adapter"
        write_snapshot(zero_adapter(config, shapes), directory)
        # Slots are taken in their order: those before the last are filled for as long as this
        # takes.
        count = self._slots - 1 if self._is_cpu else 0
        fillers = [self._request("filler", directory) for _ in range(count)]
        zero = self._request("zero", directory)
        for request in (*fillers, zero):
            await self._engine.add_lora(request)
        if self._is_cpu:
            await self._engine.pin_lora(zero.lora_int_id)
            self._pinned = zero
        for filler in fillers:
            await self._engine.remove_lora(filler.lora_int_id)
        await asyncio.gather(warm_up(zero), warm_up(None))
        if not self._is_cpu:
            await self._engine.remove_lora(zero.lora_int_id)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No adapter is loaded or unloaded meanwhile."""
        async with self._turn:
            yield

    async def forget_all(self) -> None:
        """Empty vLLM's slots, some versions of which do so by themselves when weights change."""
        pinned, self._pinned = self._pinned, None
        others = [pinned] if pinned is not None else []
        for request in (*self._held.values(), *self._leaving, *others):
            await self._engine.remove_lora(request.lora_int_id)

    async def hold_again(self) -> None:
        """Load what was held, behind ``prepare``, which is first to fill the slots."""
        for digest, request in list(self._held.items()):
            if digest not in self._held:
                continue
            again = self._request(digest, Path(request.lora_path))
            await self._engine.add_lora(again)
            if digest in self._held:
                self._held[digest] = again
            else:
                # Let go meanwhile, by the number that it had before.
                await self._engine.remove_lora(again.lora_int_id)

    async def load(self, digest: str, directory: Path) -> None:
        """Raises AdapterCapacity, AdapterInvalid, EngineDead."""
        async with self._turn:
            await self._load(digest, directory)

    async def _load(self, digest: str, directory: Path) -> None:
        if digest in self._held:
            return
        if not self._slots:
            raise AdapterUnsupported("the engine was started without adapters (max_adapters=0)")
        if len(self._held) >= self._capacity:
            raise AdapterCapacity(f"the engine holds {self._capacity} adapters already")
        _check_patterns(directory)
        # Never load_inplace, which reads the files again at every step.
        request = self._request(digest, directory)
        try:
            await self._engine.add_lora(request)
        except Exception as error:
            # vLLM raises plain exceptions of every kind here, and keeps the pieces.
            if self._engine.errored:
                raise EngineDead("the vLLM engine has died") from error
            await self._forget(request)
            text = str(error).partition("error '")[2].partition("'")[0] or str(error)
            raise AdapterInvalid(
                f"{directory}: vLLM does not load it: {text}", "adapter_path"
            ) from error
        self._held[digest] = request

    async def unload(self, digest: str) -> None:
        """Wait until no sequence of it is in flight, then free it. Raises AdapterError."""
        request = self._held.pop(digest, None)
        if request is None:
            raise AdapterError(f"adapter {digest} is not held")
        self._leaving.append(request)
        try:
            # A sequence that still ran would make vLLM read the directory again, which may have
            # gone.
            while self.gate.flights(digest):
                self._is_free.clear()
                await self._is_free.wait()
            async with self._turn:
                await self._engine.remove_lora(request.lora_int_id)
        finally:
            self._leaving.remove(request)

    def left(self, digest: str) -> None:
        """A sequence of an adapter has ended, at vLLM too."""
        self.gate.leave(digest)
        self._is_free.set()

    def _request(self, name: str, directory: Path) -> LoRARequest:
        number = next(self._numbers)
        # The number is part of the name: vLLM compares adapters by names.
        return LoRARequest(f"{name}-{number}", number, str(directory))

    async def _forget(self, request: LoRARequest) -> None:
        try:
            await self._engine.remove_lora(request.lora_int_id)
        except Exception:
            log.exception("what vLLM kept of adapter %s could not be removed", request.lora_name)


def _check_patterns(directory: Path) -> None:
    """Raises AdapterUnsupported for a config that this version of vLLM does not read whole."""
    path = directory / CONFIG_FILE
    if not _IGNORED or not path.is_file():
        return
    config = json.loads(path.read_text("utf-8"))
    for name in _IGNORED:
        if config.get(name):
            raise AdapterUnsupported(
                f"not served by this version of vLLM, which overlooks it: {name}; train with one "
                "rank and one alpha, or serve with a newer vLLM",
                name,
            )
