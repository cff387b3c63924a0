"""A rank that follows: its part of model, cache and adapters, and what orders do to them."""

import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_of
from torch import Tensor, nn

from ..adapters import Adapters
from ..layout import Chunk, arrange
from ..lora import LoraWeights
from ..memory import KVRow
from ..model import load_model
from ..options import TorchOptions
from ..packing import copy_unpacked, pack_linears
from ..weights import load_weights, put_weights
from .group import Group
from .moves import Replica
from .orders import (
    Begin,
    Channel,
    Drop,
    Hold,
    Load,
    Meet,
    Order,
    Plain,
    Ready,
    Replace,
    Serve,
    Stage,
    StageWeights,
    Step,
    Stop,
    TakeOver,
)
from .shard import sharder

__all__ = ["Follower"]

_I4: Final = np.dtype("<i4")


class Follower:
    """One rank. Orders come on one thread, stages on another. Raises whatever goes wrong."""

    def __init__(self, load: Load) -> None:
        if load.threads is not None:
            torch.set_num_threads(load.threads)
        self._group = Group(load.rank, load.ranks)
        self._meeting = Path(load.meeting)
        self._options = TorchOptions(
            load.model,
            device=load.device,
            dtype=load.dtype,  # type: ignore[arg-type]
            trust_remote_code=load.trust_remote_code,
        )
        self._shard = sharder(self._group)
        self._model = load_model(self._options, self._shard)
        if load.device.startswith("cuda"):
            torch.cuda.set_device(load.device)
        self._slabs: Replica | None = None
        self._adapters: Adapters | None = None
        self._takes_adapters = threading.Event()
        self._stages: dict[int, dict[str, LoraWeights]] = {}
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._is_packed = False

    def run(self, orders: Channel, answers: Channel) -> None:
        """Follow until the order to stop. Raises ConnectionError too."""
        answers.send(Ready())
        with torch.inference_mode():
            while True:
                order: Any = orders.receive()
                if isinstance(order, Stop):
                    return
                self._follow(order)

    def stage(self, stage: Stage) -> None:
        """Take a part of an adapter to the device."""
        # Rank 0 may be earlier than this one.
        self._takes_adapters.wait()
        tensors = tensors_of(bytes(stage.tensors))
        weights = {
            layer.name: LoraWeights(
                tensors[f"{place}.a"],
                tensors[f"{place}.b"],
                tensors[f"{place}.bias"] if layer.has_bias else None,
                layer.scale,
            )
            for place, layer in enumerate(stage.layers)
        }
        self._held().place(weights)
        self._stages[stage.stage] = weights

    def stage_weights(self, stage: StageWeights) -> None:
        """Load a part of new base weights beside those that serve."""
        model, directory = self._model, Path(stage.directory)
        self._weights[stage.stage] = load_weights(
            self._options, model.model, model.device, directory, self._shard
        )

    def discard(self, stage: int) -> None:
        """Forget what was staged."""
        self._stages.pop(stage, None)
        self._weights.pop(stage, None)

    def _follow(self, order: Order) -> None:
        match order:
            case Step():
                self._step(order)
            case Meet():
                self._group.connect(self._model.device, self._meeting)
            case Begin(budget, slab_tokens):
                self._slabs = Replica(self._model.shape, budget, slab_tokens)
            case Plain(ids):
                self._model.plain_logprobs(ids)
            case TakeOver():
                self._model.take_over()
            case Serve(max_adapters, max_lora_rank, pack_weights):
                # Adapters come in parts that rank 0 has read: no skeleton is needed.
                self._adapters = Adapters(
                    self._model.model, max_adapters, max_lora_rank, nn.Module()
                )
                if self._model.device.type == "cpu":
                    self._is_packed = pack_weights
                    if pack_weights:
                        pack_linears(self._model.model)
                    copy_unpacked(self._model.model)
                self._takes_adapters.set()
            case Hold(stage, digest, number):
                adapters = self._held()
                adapters.hold(digest, self._stages.pop(stage))
                if adapters.number(digest) != number:
                    raise RuntimeError(f"adapter {digest} has another number than on rank 0")
            case Drop(digest):
                self._held().drop(digest)
            case Replace(stage):
                # What fails here ends this rank, and with it the engine: never two bases on two.
                new = self._weights.pop(stage)
                put_weights(self._model.model, new, is_packed=self._is_packed)

    def _held(self) -> Adapters:
        assert self._adapters is not None
        return self._adapters

    def _step(self, step: Step) -> None:
        replica = self._slabs
        assert replica is not None
        for move in step.moves:
            replica.repeat(move)
        slabs, rows, starts, sizes, adapters = map(
            _numbers, (step.slabs, step.rows, step.starts, step.sizes, step.adapters)
        )
        tokens: NDArray[np.int32] = np.frombuffer(step.tokens, _I4)
        chunks = []
        at = 0
        for slab, row, start, size, adapter in zip(
            slabs, rows, starts, sizes, adapters, strict=True
        ):
            place = KVRow(replica[slab], row)
            chunks.append(Chunk(place, start, tokens[at : at + size], adapter))
            at += size
        layout = arrange(chunks, self._model.shape.heads, self._model.device)
        keep = _numbers(step.keep)
        if self._adapters is None:
            self._model.forward(layout, keep)
            return
        with self._adapters.applied(layout.adapters):
            self._model.forward(layout, keep)


def _numbers(column: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(column, _I4).tolist()
    return numbers
