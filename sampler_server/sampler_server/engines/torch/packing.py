"""Weights of linear layers in the layout that the CPU's matrix library wants."""

from torch import nn

__all__ = ["pack_linears"]


def pack_linears(model: nn.Module) -> None:
    """Placeholder."""
