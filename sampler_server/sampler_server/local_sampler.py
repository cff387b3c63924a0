"""What samplers with an engine in this process share: its backend, its adapter store, its end."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import SamplerClosed
from sampler_api.fleet import WeightsUpdate
from sampler_api.revisions import InFlight, Revision
from sampler_core.base import SamplerBase
from sampler_core.bases import tokenizer_files
from sampler_core.checked_weights import BaseLayout, weights_directory

from .adapters import AdapterStore
from .engines.base import Engine
from .hub import Hub
from .local import LocalBackend
from .scratch import ScratchFolder
from .watchdog import watch

__all__ = ["LocalSampler", "model_directory"]

_STORE_BYTES: Final = 1 << 30
"""Beyond it only what the engine holds: the rest can be read again from the copies of the names."""
_LOAD_SECONDS: Final = 600


class LocalSampler(SamplerBase):
    """A sampler over an engine that has not started; the constructor blocks until it serves.

    ``texts``: directory of the tokenizer; ``shapes``: ``(out, in)`` of the base's linear modules;
    ``layout``: what new weights must have too, ``None`` for a base that came from no files.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        texts: Path | None,
        shapes: Mapping[str, tuple[int, int]],
        layout: BaseLayout | None,
        max_adapters: int,
        max_rank: int,
        model_name: str | None,
        stall_seconds: float,
    ) -> None:
        self._is_closed = False
        self._scratch: ScratchFolder | None = None
        self._engine = engine

        def store(hub: Hub) -> AdapterStore:
            return AdapterStore(
                store_dir=self._folder("store"),
                # The caller and the engine are one process: it may read what the caller may read.
                roots=[Path("/")],
                engine=engine,
                shapes=shapes,
                max_adapters=max_adapters,
                max_rank=max_rank,
                max_store_bytes=_STORE_BYTES,
                operation=lambda name: hub.operation(name, _LOAD_SECONDS),
                shown=lambda path: self._aliases.source_of(path),
            )

        self._local = LocalBackend(
            lambda: engine,
            tokenizer_files=lambda: tokenizer_files(texts) if texts is not None else {},
            adapters=store,
            model_name=model_name,
            watched=partial(watch, stall_seconds=stall_seconds),
            layout=lambda: layout,
        )
        super().__init__(self._local, snapshot_dir=lambda: self._folder("snapshots"))

    def update_weights(
        self,
        dir_or_uri: str | Path,
        *,
        in_flight: InFlight = "finish",
        finish_seconds: float | None = None,
    ) -> Revision:
        """Replace the base's weights by those of a model directory; returns when they serve.

        The directory must be the base in everything but the values of its tensors: config, names,
        shapes and dtypes of tensors, tokenizer files; safetensors only. Its digest is the base of
        every sample from then on. Adapters stay, on the new base.

        ``in_flight`` says what becomes of sequences that have been handed in and have not ended:
        ``"finish"`` lets them end first, while what comes later waits (``finish_seconds`` bounds
        that: ProgressTimeout); ``"abort"`` ends them with RevisionGone and the tokens they have;
        ``"continue"`` lets them go on from these under the new weights, whose tokens are a segment
        of their own. No key or value of the old weights is used for the new ones.

        Raises WeightsInvalid, which names the file, Unsupported, EngineFailed, Busy: the old
        weights go on serving. EngineDead: nobody can say which ones the engine has.
        """
        directory = weights_directory(
            Path(dir_or_uri).absolute() if _is_path(dir_or_uri) else dir_or_uri
        )
        updated = self._local.update_weights(
            WeightsUpdate(str(directory), in_flight, finish_seconds)
        )
        return Revision(updated.base)

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
            f"{type(self).__name__}: the engine in it cannot be pickled; make one in each process, "
            "or serve the model and give RemoteSampler to them"
        )

    def close(self) -> None:
        """End everything; calls that still wait raise SamplerClosed. Idempotent."""
        self._is_closed = True
        super().close()
        if self._scratch is not None:
            self._scratch.close()


def _is_path(dir_or_uri: str | Path) -> bool:
    return isinstance(dir_or_uri, Path) or "://" not in dir_or_uri


def model_directory(model: Any) -> Path | None:
    """Where a model's files are: itself, or its snapshot in the hub's cache; None for an object."""
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(model)))
