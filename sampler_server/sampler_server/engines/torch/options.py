"""What a torch engine is made of: the model, where it runs, and how much may run at once.

Imports no torch, so that a command line can build options before it pays for the import.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["DTypeName", "LogitsProcessor", "TorchOptions"]

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]

LogitsProcessor = Callable[[Sequence[Sequence[int]], "torch.Tensor"], "torch.Tensor"]
"""Takes the ids of every sequence (prompt and output) and logits f32 [n, V]; gives logits of that
shape. Called once a step, with the sequences that draw a token in it."""


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Settings of one engine.

    ``model`` is a directory, a hub id that is in the local cache, or a ready transformers model.
    ``kv_tokens`` bounds the memory of the cache, in tokens; ``None`` takes what ``slots`` sequences
    of 1,024 tokens need. ``prefill_tokens`` bounds the prompt tokens of a step, so that running
    sequences go on; ``None`` chooses by device. ``batch_invariant`` runs one sequence a step, with
    the same shapes whatever else runs: slow, for tests that compare bits.
    """

    model: "str | Path | Any"
    device: str | None = None
    dtype: DTypeName = "auto"
    slots: int = 32
    kv_tokens: int | None = None
    context_limit: int | None = None
    prefill_tokens: int | None = None
    batch_invariant: bool = False
    max_adapters: int = 16
    max_lora_rank: int = 256
    model_cls: Any = None
    logits_processor: LogitsProcessor | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    """CPU threads, of all ranks together."""
    tensor_parallel_size: int = 1
    """Ranks that hold a part of the model each: processes, of which this one is the first. Takes a
    model's files, on ``cpu`` or ``cuda``, where the ranks take the first cards."""
    pack_weights: bool = True
    """Keep a second copy of weights in the layout that the CPU's matrix library wants."""
    base_digest: str = ""
    name: str = ""
