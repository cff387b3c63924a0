"""Samplers whose engine is in this process.

``TorchSampler`` is the sampler for people who want to change something: a model class, a ready
model, a logits processor.
"""

import tempfile
from pathlib import Path
from typing import Any

from sampler_core.base import SamplerBase
from sampler_core.bases import base_digest, linear_shapes, tokenizer_files

from .adapters import AdapterStore
from .engines.torch import TorchEngine, TorchOptions
from .hub import Hub
from .local import LocalBackend

__all__ = ["TorchSampler"]


class TorchSampler(SamplerBase):
    """Samples with transformers on this machine's CPU, CUDA or MPS device.

    ``model_id``: a model directory or hub id, or a ready transformers model (then give
    ``tokenizer_dir=`` for text). Further keywords are the fields of
    :class:`~sampler_server.engines.torch.options.TorchOptions`: ``dtype``, ``device``, ``slots``
    (sequences at once), ``kv_tokens`` (the memory bound), ``logits_processor``, ``model_cls`` and
    so on. The constructor blocks until the model is loaded; ``with`` or ``close()`` ends its
    threads. Raises ModelInvalid.
    """

    def __init__(
        self, model_id: Any, *, tokenizer_dir: str | Path | None = None, **options: Any
    ) -> None:
        settings = TorchOptions(model_id, **options)
        # Weights without files have no content digest that another process could compare.
        directory = model_directory(model_id)
        if directory is not None and not settings.base_digest:
            import dataclasses

            settings = dataclasses.replace(settings, base_digest=base_digest(directory))
        texts = Path(tokenizer_dir) if tokenizer_dir is not None else directory
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._engine = TorchEngine(settings)

        def store(hub: Hub) -> AdapterStore:
            return AdapterStore(
                store_dir=self._folder("store"),
                # The caller and the engine are one process: it may read what the caller may read.
                roots=[Path("/")],
                engine=self._engine,
                shapes=linear_shapes(directory) if directory is not None else None,
                max_adapters=settings.max_adapters,
                max_rank=settings.max_lora_rank,
                operation=lambda name: hub.operation(name, 600),
            )

        super().__init__(
            LocalBackend(
                lambda: self._engine,
                tokenizer_files=lambda: tokenizer_files(texts) if texts is not None else {},
                adapters=store,
                model_name=settings.name or None,
            ),
            snapshot_dir=lambda: self._folder("snapshots"),
        )

    @property
    def model(self) -> Any:
        """The transformers model that the engine runs."""
        return self._engine.model

    def _folder(self, name: str) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="sampler-adapters-")
        folder = Path(self._scratch.name) / name
        folder.mkdir(exist_ok=True)
        return folder

    def close(self) -> None:
        """End everything; calls that still wait raise SamplerClosed. Idempotent."""
        super().close()
        if self._scratch is not None:
            self._scratch.cleanup()


def model_directory(model: Any) -> Path | None:
    """Where a model's files are: itself, or its snapshot in the hub's cache; None for an object."""
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(model)))
