"""Samplers whose engine is in this process.

``TorchSampler`` is the sampler for people who want to change something: a model class, a ready
model, a logits processor. ``vLLMSampler`` (``vllm_sampler``) is the one for speed.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sampler_api.names import SHA256_PREFIX
from sampler_core.bases import base_digest, linear_shapes
from sampler_core.checked_weights import base_layout

from .engines.torch import TorchEngine, TorchOptions
from .local import STALL_SECONDS
from .local_sampler import LocalSampler, model_directory

__all__ = ["TorchSampler"]


class TorchSampler(LocalSampler):
    """Samples with transformers on this machine's CPU, CUDA or MPS device.

    ``model_id``: a model directory or hub id, or a ready transformers model (then give
    ``tokenizer_dir=`` for text). Further keywords are the fields of
    :class:`~sampler_server.engines.torch.options.TorchOptions`: ``dtype``, ``device``, ``slots``
    (sequences at once), ``kv_tokens`` (the memory bound), ``logits_processor``, ``model_cls`` and
    so on. The constructor blocks until the model is loaded; ``with`` or ``close()`` ends its
    threads. Raises ModelInvalid, which names ``model``, ``dtype`` or ``device`` when one of these
    is wrong.

    An engine that makes no step for ``stall_seconds`` while calls wait is given up: they raise
    EngineDead. ``math.inf`` leaves time for a debugger in a logits processor.
    """

    def __init__(
        self,
        model_id: Any,
        *,
        tokenizer_dir: str | Path | None = None,
        stall_seconds: float = STALL_SECONDS,
        **options: Any,
    ) -> None:
        settings = TorchOptions(model_id, **options)
        directory = model_directory(model_id)
        if not settings.base_digest:
            digest = weights_digest(model_id) if directory is None else base_digest(directory)
            settings = replace(settings, base_digest=digest)
        super().__init__(
            TorchEngine(settings),
            texts=Path(tokenizer_dir) if tokenizer_dir is not None else directory,
            shapes=module_shapes(model_id) if directory is None else linear_shapes(directory),
            layout=None if directory is None else base_layout(directory),
            max_adapters=settings.max_adapters,
            max_rank=settings.max_lora_rank,
            model_name=settings.name or None,
            stall_seconds=stall_seconds,
        )


def module_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of a ready model's linear layers and embeddings, by module name.

    What ``linear_shapes`` reads from the files of a model.
    """
    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }


def weights_digest(model: Any) -> str:
    """Identity of a ready model: sha256 over names, dtypes, shapes and bytes of its weights.

    Not comparable with the digest of a directory, which covers files.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(flat.numpy().data)
    return SHA256_PREFIX + total.hexdigest()
