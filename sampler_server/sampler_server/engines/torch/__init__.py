"""Continuous batching on transformers models: one packed step for all sequences that run."""

from typing import TYPE_CHECKING, Any

from .options import TorchOptions

if TYPE_CHECKING:
    from .engine import TorchEngine

__all__ = ["TorchEngine", "TorchOptions"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; options do not need it.
    if name == "TorchEngine":
        from .engine import TorchEngine

        return TorchEngine
    raise AttributeError(name)
