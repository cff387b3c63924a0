"""LoRA adapters: PEFT reads them on a weightless copy, hooks apply them to the tokens they are for.

PEFT knows target modules, patterns, scaling and names of tensors; it injects an adapter into a copy
of the model that has shapes but no weights. What comes out (A, B and scale of every linear layer)
is applied by hooks on the model's own layers, to the tokens of the sequences that use it. So a bad
adapter cannot harm the model, different adapters and the base mix in one step without a loop over
samples, and steps of the base alone run without any hook.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sampler_api.errors import AdapterCapacity, AdapterError, AdapterUnsupported

from .lora import LoraWeights, read_lora

__all__ = ["Adapters", "weightless"]

_Active = list[tuple[dict[str, LoraWeights], Tensor | None]]


class Adapters:
    """The adapters that one engine holds, by digest and by a number that is never used again.

    ``skeleton``: what ``weightless`` makes of the whole model, where ``model`` is a part of it.
    """

    def __init__(
        self, model: nn.Module, capacity: int, max_rank: int, skeleton: nn.Module | None = None
    ) -> None:
        self._modules = dict(model.named_modules())
        self._skeleton = weightless(model) if skeleton is None else skeleton
        self._capacity = capacity
        self._max_rank = max_rank
        self._numbers: dict[str, int] = {}
        self._weights: dict[int, dict[str, LoraWeights]] = {}
        self._last = 0
        self._handles: dict[str, RemovableHandle] = {}
        self._active: _Active = []
        self._reading = threading.Lock()

    def number(self, digest: str | None) -> int | None:
        """The adapter's number, 0 for the base, ``None`` for one that is not held."""
        return 0 if digest is None else self._numbers.get(digest)

    def read(self, directory: Path) -> dict[str, LoraWeights]:
        """Read and check an adapter, outside the engine's thread."""
        weights = self.read_whole(directory)
        self.place(weights)
        return weights

    def read_whole(self, directory: Path) -> dict[str, LoraWeights]:
        """Read and check an adapter; it stays on the CPU as it is in the file."""
        # PEFT patches module classes while it injects.
        with self._reading:
            weights = read_lora(copy.deepcopy(self._skeleton), directory)
        for name, found in weights.items():
            if found.rank > self._max_rank:
                raise AdapterUnsupported(
                    f"{directory}: {name} has rank {found.rank}; at most {self._max_rank} is served"
                )
        return weights

    def place(self, weights: dict[str, LoraWeights]) -> None:
        """Move the weights to the layers that they are for, and cast them as these are."""
        for name, found in weights.items():
            weight = self._modules[name].weight
            found.to(weight.device, weight.dtype)

    def hold(self, digest: str, weights: dict[str, LoraWeights]) -> None:
        """Make an adapter servable; between steps."""
        if digest in self._numbers:
            return
        if len(self._numbers) >= self._capacity:
            raise AdapterCapacity(f"the engine holds {self._capacity} adapters already")
        self._last += 1
        self._numbers[digest] = self._last
        self._weights[self._last] = weights

    def drop(self, digest: str) -> None:
        """Free an adapter; between steps."""
        number = self._numbers.pop(digest, None)
        if number is None:
            raise AdapterError(f"adapter {digest} is not held")
        del self._weights[number]

    @contextmanager
    def applied(self, numbers: NDArray[np.int64]) -> Iterator[None]:
        """Apply adapters to the tokens of a step: numbers i64 [T], 0 for the base."""
        used = np.unique(numbers[numbers > 0])
        if not len(used):
            self._unhook()
            yield
            return
        device = next(iter(self._modules.values())).device
        self._active = []
        for number in used:
            tokens = np.flatnonzero(numbers == number)
            index = None if len(tokens) == len(numbers) else torch.from_numpy(tokens).to(device)
            self._active.append((self._weights[int(number)], index))
        self._hook()
        try:
            yield
        finally:
            self._active = []

    def close(self) -> None:
        """Leave no hook on the model."""
        self._unhook()

    def _hook(self) -> None:
        for weights, _ in self._active:
            for name in weights.keys() - self._handles.keys():
                module = self._modules[name]
                # Before a hook that sums or joins the parts of several ranks.
                hook = self._hook_of(name)
                self._handles[name] = module.register_forward_hook(hook, prepend=True)

    def _unhook(self) -> None:
        if self._handles:
            for handle in self._handles.values():
                handle.remove()
            self._handles.clear()

    def _hook_of(self, name: str) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows, out = args[0][0], output[0]
            for weights, index in self._active:
                found = weights.get(name)
                if found is None:
                    continue
                if index is None:
                    out.add_(found.delta(rows))
                else:
                    out.index_add_(0, index, found.delta(rows.index_select(0, index)))

        return add


def weightless(model: nn.Module) -> nn.Module:
    """A copy with shapes and dtypes only."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)
