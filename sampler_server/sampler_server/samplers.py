"""Samplers whose engine is in this process.

``TorchSampler`` is the sampler for people who want to change something: a model class, a ready
model, a logits processor.
"""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sampler_api.errors import SamplerClosed
from sampler_api.names import SHA256_PREFIX
from sampler_core.base import SamplerBase
from sampler_core.bases import base_digest, linear_shapes, tokenizer_files

from .adapters import AdapterStore
from .engines.torch import TorchEngine, TorchOptions
from .hub import Hub
from .local import STALL_SECONDS, LocalBackend
from .scratch import ScratchFolder
from .watchdog import watch

__all__ = ["TorchSampler"]

_STORE_BYTES = 1 << 30
"""Beyond it only what the engine holds: the rest can be read again from the copies of the names."""


class TorchSampler(SamplerBase):
    """Samples with transformers on this machine's CPU, CUDA or MPS device.

    ``model_id``: a model directory or hub id, or a ready transformers model (then give
    ``tokenizer_dir=`` for text). Further keywords are the fields of
    :class:`~sampler_server.engines.torch.options.TorchOptions`: ``dtype``, ``device``, ``slots``
    (sequences at once), ``kv_tokens`` (the memory bound), ``logits_processor``, ``model_cls`` and
    so on. The constructor blocks until the model is loaded; ``with`` or ``close()`` ends its
    threads. Raises ModelInvalid.

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
        texts = Path(tokenizer_dir) if tokenizer_dir is not None else directory
        self._is_closed = False
        self._scratch: ScratchFolder | None = None
        self._engine = TorchEngine(settings)

        def store(hub: Hub) -> AdapterStore:
            return AdapterStore(
                store_dir=self._folder("store"),
                # The caller and the engine are one process: it may read what the caller may read.
                roots=[Path("/")],
                engine=self._engine,
                shapes=module_shapes(model_id) if directory is None else linear_shapes(directory),
                max_adapters=settings.max_adapters,
                max_rank=settings.max_lora_rank,
                max_store_bytes=_STORE_BYTES,
                operation=lambda name: hub.operation(name, 600),
                shown=lambda path: self._aliases.source_of(path),
            )

        super().__init__(
            LocalBackend(
                lambda: self._engine,
                tokenizer_files=lambda: tokenizer_files(texts) if texts is not None else {},
                adapters=store,
                model_name=settings.name or None,
                watched=partial(watch, stall_seconds=stall_seconds),
            ),
            snapshot_dir=lambda: self._folder("snapshots"),
        )

    def _folder(self, name: str) -> Path:
        if self._is_closed:
            raise SamplerClosed("the sampler is closed")
        if self._scratch is None:
            self._scratch = ScratchFolder()
        folder = self._scratch.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def __reduce__(self) -> Any:
        raise TypeError(
            "TorchSampler: the engine in it cannot be pickled; make one in each process, or serve "
            "the model and give RemoteSampler to them"
        )

    def close(self) -> None:
        """End everything; calls that still wait raise SamplerClosed. Idempotent."""
        self._is_closed = True
        super().close()
        if self._scratch is not None:
            self._scratch.close()


def model_directory(model: Any) -> Path | None:
    """Where a model's files are: itself, or its snapshot in the hub's cache; None for an object."""
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(model)))


def module_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of a ready model's linear layers, by module name."""
    return {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
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
