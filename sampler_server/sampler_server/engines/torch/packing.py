"""Weights of linear layers in the layout that the CPU's matrix library wants.

MKL rearranges a weight matrix on every product, which at the few rows of a decode step costs a
quarter of the product. Here it is done once. The packed copy costs the memory of the weights a
second time; weights that were mapped from a file are not read any more and leave memory.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["pack_linears", "unpack_linears"]

_ROWS_HINT = 64
"""Rows that the packed layout is chosen for. Others are right too, and fast from 2 to 512."""

_SMALLEST = 1 << 14
_PROOF_ROWS = (1, 3, 64, 200)


def pack_linears(model: nn.Module) -> int:
    """Pack float32 linear layers of a model on the CPU; says how many."""
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return 0
    count = 0
    packed: dict[int, Tensor] = {}
    for module in model.modules():
        # Subclasses may compute something else than x W^T + b.
        if type(module) is not nn.Linear or "forward" in vars(module):
            continue
        weight = module.weight
        if weight.dtype != torch.float32 or not weight.is_cpu or weight.numel() < _SMALLEST:
            continue
        # Tied weights are packed once.
        known = packed.get(weight.data_ptr())
        if known is None:
            known = _pack(weight)
            if not packed and not _is_right(known, weight):
                return 0
            packed[weight.data_ptr()] = known
        # On the instance: hooks still run, and the class stays as it is.
        vars(module)["forward"] = _product(module, known)
        count += 1
    return count


def unpack_linears(model: nn.Module) -> None:
    """Undo ``pack_linears``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            vars(module).pop("forward", None)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), _ROWS_HINT)
    return packed


def _product(module: nn.Linear, packed: Tensor) -> Callable[[Tensor], Tensor]:
    weight: Tensor = module.weight.detach()
    bias = module.bias.detach() if module.bias is not None else None
    run: Any = torch.ops.mkl._mkl_linear.default
    width = weight.shape[1]

    def forward(rows: Tensor) -> Tensor:
        # The operator takes the packed weight only where the row count is the announced one.
        found: Tensor = run(rows, packed, weight, bias, rows.numel() // width)
        return found

    return forward


def _is_right(packed: Tensor, weight: Tensor) -> bool:
    """Whether row counts other than the hinted one give right products in this build of MKL."""
    generator = torch.Generator().manual_seed(0)
    for count in _PROOF_ROWS:
        rows = torch.randn(count, weight.shape[1], generator=generator)
        found = torch.ops.mkl._mkl_linear(rows, packed, weight, None, count)
        expected = rows @ weight.detach().t()
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
            return False
    return True
