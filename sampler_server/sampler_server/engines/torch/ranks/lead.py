"""Rank 0: model, cache and adapters of an engine that tell the other ranks what they do.

The engine does not know of ranks: it steps a model, places rows, and holds adapters. What it does
to its own part, these classes have the others do to theirs.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from sampler_api.errors import (
    AdapterInvalid,
    EngineDead,
    EngineFailed,
    ModelInvalid,
)

from ....scratch import ScratchFolder
from ...base import Weights
from ..adapters import Adapters, weightless
from ..layout import Layout
from ..lora import LoraWeights
from ..memory import SlabStore
from ..model import ServedModel, load_model
from ..options import TorchOptions
from ..shape import KVShape
from ..weights import NewWeights, read_weights
from .group import Group
from .moves import NotedStore
from .orders import (
    Begin,
    Drop,
    Hold,
    Layer,
    Load,
    Meet,
    Move,
    Plain,
    Replace,
    Serve,
    Stage,
    StageWeights,
    Step,
    TakeOver,
)
from .plan import Cut, check_config, refusal
from .processes import Processes
from .shard import lora_part, shard, sharder

__all__ = ["Ranks", "start_ranks"]


def start_ranks(options: TorchOptions, lost: Callable[[str], None]) -> "Ranks | None":
    """Start the other ranks; ``None`` where there is but one. They load while this one does.

    ``lost`` is called once, from another thread, with one line, when one of them has died or hangs.
    Raises ModelInvalid.
    """
    size = options.tensor_parallel_size
    if size == 1:
        return None
    _check(options)
    return Ranks(options, lost)


class Ranks:
    """The ranks of one engine, as seen from the first."""

    def __init__(self, options: TorchOptions, lost: Callable[[str], None]) -> None:
        size = options.tensor_parallel_size
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        threads = None
        if device == "cpu":
            # All of them on all cores would wait for each other at every layer.
            threads = max(1, (options.threads or torch.get_num_threads()) // size)
        self._scratch = ScratchFolder()
        self._meeting = self._scratch.path / "ranks"
        self._group = Group(0, size)
        loads = [
            Load(
                rank=rank,
                ranks=size,
                model=str(options.model),
                device=_device_of(device, rank),
                dtype=options.dtype,
                trust_remote_code=options.trust_remote_code,
                threads=threads,
                meeting=str(self._meeting),
                log_level=logging.getLogger().getEffectiveLevel(),
            )
            for rank in range(1, size)
        ]
        self.options = replace(options, device=_device_of(device, 0), threads=threads)
        """Those of this rank."""
        self.processes = Processes(loads, lost)
        self.processes.on_loss = self._group.abort
        self._model: _LeadModel | None = None
        self._moves: list[Move] = []
        self._skeleton = nn.Module()
        self._cuts: dict[str, Cut] = {}

    def load_model(self) -> ServedModel:
        """Load this rank's part, and wait for the others. Raises ModelInvalid, EngineDead."""

        def part(model: Any, device: torch.device) -> int:
            self._skeleton = weightless(model)
            heads, self._cuts = shard(model, device, self._group)
            return heads

        served = load_model(self.options, part)
        self.processes.wait_ready()
        self.processes.order(Meet())
        self._group.connect(served.device, self._meeting)
        self._model = _LeadModel(served, self.processes, self._take_moves, self._group)
        return self._model

    def make_store(self, shape: KVShape, budget: int, slab_tokens: int) -> SlabStore:
        """Room for keys and values, on every rank for its heads."""
        self.processes.order(Begin(budget, slab_tokens))
        return NotedStore(shape, budget, slab_tokens, self._moves)

    def make_adapters(self, model: nn.Module, capacity: int, max_rank: int) -> Adapters:
        """The adapters; also the last order before steps."""
        self.processes.order(Serve(capacity, max_rank, self.options.pack_weights))
        if self._model is not None:
            self._model.is_serving = True
        return _LeadAdapters(model, capacity, max_rank, self._skeleton, self.processes, self._cuts)

    def close(self) -> None:
        """End the other ranks. Idempotent."""
        self.processes.close()
        self._scratch.close()

    def _take_moves(self) -> list[Move]:
        found = self._moves[:]
        self._moves.clear()
        return found


@dataclass(frozen=True)
class _NewWeights(NewWeights):
    """Rank 0's part of new base weights whose other parts are staged on the other ranks."""

    stage: int


class _LeadModel(ServedModel):
    """Every call of it is one of all ranks."""

    def __init__(
        self,
        part: ServedModel,
        processes: Processes,
        moves: Callable[[], list[Move]],
        group: Group,
    ) -> None:
        super().__init__(part.model, part.device, part.shape.heads)
        self._processes = processes
        self._moves = moves
        self._group = group
        self.is_serving = False
        """The model has been proved."""

    def take_over(self) -> None:
        self._processes.order(TakeOver())
        super().take_over()

    def forward(self, layout: Layout, keep: Sequence[int]) -> Tensor:
        chunks = layout.chunks
        step = Step(
            moves=self._moves(),
            slabs=_column(chunk.kv.slab.number for chunk in chunks),
            rows=_column(chunk.kv.index for chunk in chunks),
            starts=_column(chunk.start for chunk in chunks),
            sizes=_column(chunk.tokens.size for chunk in chunks),
            adapters=_column(chunk.adapter for chunk in chunks),
            tokens=np.concatenate([chunk.tokens for chunk in chunks]).astype("<i4").tobytes(),
            keep=_column(keep),
        )
        self._processes.order(step)
        with self._together():
            return super().forward(layout, keep)

    def plain_logprobs(self, ids: Iterable[int]) -> Tensor:
        tokens = list(ids)
        self._processes.order(Plain(tokens))
        with self._together():
            return super().plain_logprobs(tokens)

    def read_weights(self, options: TorchOptions, weights: Weights) -> NewWeights:
        processes, directory = self._processes, str(weights.directory)
        stage = processes.begin_stage(
            [StageWeights(0, directory) for _ in range(1, processes.size)]
        )
        try:
            own = read_weights(options, self.model, self.device, weights, sharder(self._group))
            refused = processes.finish_stage(stage)
            if refused:
                raise EngineFailed(f"{directory}: cannot be loaded: {refused}")
            # The others may have read later than this one.
            weights.check_unchanged()
        except EngineDead:
            raise
        except Exception:
            processes.discard(stage)
            raise
        return _NewWeights(own.tensors, own.digest, stage)

    def put_weights(self, new: NewWeights, *, is_packed: bool) -> None:
        assert isinstance(new, _NewWeights)
        self._processes.order(Replace(new.stage))
        with self._together():
            super().put_weights(new, is_packed=is_packed)

    def forget_weights(self, new: NewWeights) -> None:
        assert isinstance(new, _NewWeights)
        self._processes.discard(new.stage)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """An error in here leaves ranks at different places: nothing can go on."""
        try:
            yield
        except Exception as error:
            if not self.is_serving and not self._processes.was_killed():
                # All ranks have found that the model cannot be served; that is a matter of models.
                raise
            raise EngineDead(self._processes.why(error)) from error


class _Weights(dict[str, LoraWeights]):
    """Rank 0's part of an adapter whose other parts are staged on the other ranks."""

    stage: int = 0


class _LeadAdapters(Adapters):
    """Reads an adapter once, and gives every rank its part: all have it, or none."""

    def __init__(
        self,
        model: nn.Module,
        capacity: int,
        max_rank: int,
        skeleton: nn.Module,
        processes: Processes,
        cuts: dict[str, Cut],
    ) -> None:
        super().__init__(model, capacity, max_rank, skeleton)
        self._processes = processes
        self._cuts = cuts

    def read(self, directory: Path) -> dict[str, LoraWeights]:
        whole = self.read_whole(directory)
        for name, weights in whole.items():
            # As on the layer, before it travels.
            weights.to(torch.device("cpu"), self._modules[name].weight.dtype)
        parts = [self._stage(whole, rank) for rank in range(1, self._processes.size)]
        own = _Weights(self._parts(whole, 0))
        self.place(own)
        own.stage = self._processes.begin_stage(parts)
        refused = self._processes.finish_stage(own.stage)
        if refused:
            raise AdapterInvalid(refused)
        return own

    def hold(self, digest: str, weights: dict[str, LoraWeights]) -> None:
        assert isinstance(weights, _Weights)
        is_new = self.number(digest) is None
        try:
            super().hold(digest, weights)
        except Exception:
            self._processes.discard(weights.stage)
            raise
        if is_new:
            number = self.number(digest)
            assert number is not None
            self._processes.order(Hold(weights.stage, digest, number))
        else:
            self._processes.discard(weights.stage)

    def drop(self, digest: str) -> None:
        super().drop(digest)
        self._processes.order(Drop(digest))

    def _parts(self, whole: dict[str, LoraWeights], rank: int) -> dict[str, LoraWeights]:
        return {name: lora_part(w, self._cuts.get(name), rank) for name, w in whole.items()}

    def _stage(self, whole: dict[str, LoraWeights], rank: int) -> Stage:
        layers: list[Layer] = []
        tensors: dict[str, Tensor] = {}
        for name, weights in self._parts(whole, rank).items():
            place = len(layers)
            layers.append(Layer(name, weights.scale, weights.bias is not None))
            tensors[f"{place}.a"] = weights.a.contiguous()
            tensors[f"{place}.b"] = weights.b.contiguous()
            if weights.bias is not None:
                tensors[f"{place}.bias"] = weights.bias.contiguous()
        return Stage(0, layers, save(tensors))


def _check(options: TorchOptions) -> None:
    """Refuse what several ranks cannot do, before they are started. Raises ModelInvalid."""
    from transformers import AutoConfig

    size = options.tensor_parallel_size
    if size < 1:
        raise refusal(size, "there must be 1 rank at least")
    if not isinstance(options.model, (str, Path)):
        raise refusal(size, "a ready model is in one process; give the directory of its files")
    if options.model_cls is not None:
        raise refusal(size, "other ranks are processes of their own, which have no model_cls")
    if not sys.platform.startswith("linux"):
        raise refusal(size, "several ranks run on Linux only")
    kind = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise refusal(size, f"the ranks run on 'cpu' or 'cuda', not on {kind!r}")
    if kind == "cuda" and torch.cuda.device_count() < size:
        raise refusal(size, f"this machine has {torch.cuda.device_count()} GPUs")
    try:
        config = AutoConfig.from_pretrained(
            str(options.model), trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelInvalid(f"model: {options.model} cannot be loaded: {line}", "model") from error
    check_config(config, size)


def _device_of(kind: str, rank: int) -> str:
    return f"{kind}:{rank}" if kind == "cuda" else kind


def _column(numbers: Iterable[int]) -> bytes:
    return np.fromiter(numbers, "<i4").tobytes()
