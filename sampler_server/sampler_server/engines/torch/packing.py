"""Weights of linear layers in the layout that the CPU's matrix library wants.

MKL rearranges a weight matrix on every product, which at the few rows of a decode step costs a
quarter of the product. Here it is done once, and layers that read the same input (q, k and v; gate
and up) become one product: fewer starts of a parallel region, which matters most on a busy machine.
The packed copy costs the memory of the weights a second time; weights that were mapped from a file
are not read any more and leave memory. The others are copied out of it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeGuard

import torch
from torch import Tensor, nn

__all__ = ["copy_unpacked", "pack_again", "pack_linears", "unpack_linears"]

log = logging.getLogger(__name__)

_ROWS_HINT: Final = 64
"""Rows that the packed layout is chosen for. Others are right too, and fast from 2 to 512."""

_SMALLEST: Final = 1 << 12
_PROOF_ROWS: Final = (1, 3, 64, 200)
_SIBLINGS: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

_Forward = Callable[[Tensor], Tensor]


def pack_linears(model: nn.Module) -> int:
    """Pack the float32 linear layers of a model on the CPU; says how many products are left."""
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return 0
    groups = _groups(model)
    if not groups or not _is_right(groups[0]):
        return 0
    products: dict[int, _Product] = {}
    for group in groups:
        # Tied weights are packed once; they never have siblings.
        known = products.get(group[0].weight.data_ptr()) if len(group) == 1 else None
        product = known or _Product(group)
        products[group[0].weight.data_ptr()] = product
        for place, module in enumerate(group):
            # On the instance: hooks still run, and the class stays as it is.
            vars(module)["forward"] = product.forward_of(place)
    return len(groups)


def unpack_linears(model: nn.Module) -> None:
    """Undo ``pack_linears``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            vars(module).pop("forward", None)


def pack_again(model: nn.Module) -> None:
    """Pack new weights of a model that serves; leaves them as they are where that fails."""
    try:
        pack_linears(model)
    except (RuntimeError, MemoryError):
        # As right without, and slower.
        log.exception("the weights could not be packed")
        unpack_linears(model)


def copy_unpacked(model: nn.Module) -> None:
    """Copy weights out of the files that they may be mapped from, whose owner may overwrite them;
    what is packed is a copy already, and its plain weights are read no more."""
    copied: set[int] = set()
    for module in model.modules():
        if type(module) is nn.Linear and "forward" in vars(module):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            # Tied ones stay tied: the tensor is the same, with other memory behind it.
            if id(tensor) not in copied:
                copied.add(id(tensor))
                tensor.data = tensor.data.clone()


def _groups(model: nn.Module) -> list[list[nn.Linear]]:
    groups: list[list[nn.Linear]] = []
    taken: set[int] = set()
    for parent in model.modules():
        for names in _SIBLINGS:
            group = [m for name in names if _fits(m := getattr(parent, name, None))]
            if len(group) == len(names) and _agree(group):
                groups.append(group)
                taken.update(map(id, group))
    groups += [[m] for m in model.modules() if _fits(m) and id(m) not in taken]
    return groups


def _fits(module: Any) -> TypeGuard[nn.Linear]:
    # Subclasses may compute something else than x W^T + b.
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    return weight.dtype == torch.float32 and weight.is_cpu and weight.numel() >= _SMALLEST


def _agree(group: list[nn.Linear]) -> bool:
    return len({m.in_features for m in group}) == 1 == len({m.bias is None for m in group})


class _Product:
    """One packed product for layers that read the same input, in the order in which they do."""

    def __init__(self, group: Sequence[nn.Linear]) -> None:
        weight = torch.cat([m.weight.detach() for m in group])
        self._packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, _ROWS_HINT)
        biases = [m.bias.detach() for m in group if m.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._sizes = [m.out_features for m in group]
        # The operator wants the plain weight too, for row counts that it was not packed for. Only
        # its shape is read, so that no memory stands behind it.
        self._shape_of_weight = torch.zeros(()).expand(weight.shape)
        self._width = weight.shape[1]
        self._run: Any = torch.ops.mkl._mkl_linear.default
        self._rows: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def compute(self, rows: Tensor) -> Tensor:
        """All outputs [..., sum of sizes] of inputs [..., in]."""
        # The operator takes the packed weight only where the row count is the announced one.
        count = rows.numel() // self._width
        found: Tensor = self._run(
            rows.contiguous(), self._packed, self._shape_of_weight, self._bias, count
        )
        return found

    def forward_of(self, place: int) -> _Forward:
        """The layer's forward: the first computes for all, the last forgets."""
        if len(self._sizes) == 1:
            return self.compute
        if place == 0:
            return self._first
        is_last = place == len(self._sizes) - 1

        def other(rows: Tensor) -> Tensor:
            if rows is not self._rows:
                return torch.split(self.compute(rows), self._sizes, dim=-1)[place]
            part = self._parts[place]
            if is_last:
                self._rows, self._parts = None, ()
            return part

        return other

    def _first(self, rows: Tensor) -> Tensor:
        self._parts = torch.split(self.compute(rows), self._sizes, dim=-1)
        self._rows = rows
        return self._parts[0]


def _is_right(group: list[nn.Linear]) -> bool:
    """Whether row counts other than the hinted one give right products in this build of MKL."""
    product = _Product(group)
    generator = torch.Generator().manual_seed(0)
    for count in _PROOF_ROWS:
        rows = torch.randn(count, group[0].in_features, generator=generator)
        expected = torch.cat([m(rows) for m in group], dim=-1)
        if not torch.allclose(product.compute(rows), expected, rtol=1e-3, atol=1e-3):
            return False
    return True
