"""Sampler servers and the engines behind them.

``TorchSampler`` and ``vLLMSampler`` run an engine in this process; importing them loads no web
framework.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .samplers import TorchSampler
    from .vllm_sampler import vLLMSampler

__all__ = ["TorchSampler", "vLLMSampler"]


def __getattr__(name: str) -> Any:
    # A server process of another engine, and the command line, do not want torch.
    if name == "TorchSampler":
        from .samplers import TorchSampler

        return TorchSampler
    if name == "vLLMSampler":
        from .vllm_sampler import vLLMSampler

        return vLLMSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
