"""Sampler servers and the engines behind them.

``TorchSampler`` runs an engine in this process; importing it loads torch, and no web framework.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .samplers import TorchSampler

__all__ = ["TorchSampler"]


def __getattr__(name: str) -> Any:
    # A server process of another engine, and the command line, do not want torch.
    if name == "TorchSampler":
        from .samplers import TorchSampler

        return TorchSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
