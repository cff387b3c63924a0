"""Whether an adapter fits a base and an engine, decided before an engine sees it. Pure.

Engines do not check enough: one dies of an adapter for another base, another serves half of it.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from sampler_api.errors import AdapterInvalid, AdapterUnsupported

from .adapter_config import canonical_config
from .adapter_kinds import ADAPTER_KINDS, KIND_TEXTS, kinds_of, supported_kinds
from .adapter_targets import rank_of, selects
from .adapter_tensors import lora_modules, lora_part
from .safetensors_file import Tensor

__all__ = ["ADAPTER_KINDS", "check_adapter", "supported_kinds"]

_DTYPES: Final = ("F32", "F16", "BF16", "F64")


def check_adapter(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, int]],
    *,
    max_rank: int,
    supports: Collection[str],
) -> None:
    """Accept an adapter or say what is wrong with it.

    ``config``: validated fields; ``shapes``: ``(out, in)`` of the base's linear modules (empty: an
    engine without weights, nothing to compare with); ``max_rank`` 0 = any; ``supports``: the kinds
    that the engine serves (:func:`supported_kinds`). Raises AdapterInvalid naming tensor, expected
    and found, and AdapterUnsupported naming the kind and what to do.
    """
    _check_kinds(config, tensors, supports)
    for tensor in tensors.values():
        if tensor.dtype not in _DTYPES:
            raise _invalid(
                tensor, f"has dtype {tensor.dtype}; expected one of {', '.join(_DTYPES)}"
            )
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part = lora_part(name)
        if part is not None:
            modules.setdefault(part[0], {})[part[1]] = tensor
    for module in sorted(modules):
        _check_module(config, modules[module], shapes, module, max_rank)
    if config.get("target_modules") == "all-linear":
        return  # which two-dimensional weights are linear layers is not in the headers
    for module in sorted(shapes.keys() - modules.keys()):
        if selects(config, module):
            raise AdapterInvalid(
                f"the config selects {module!r} of the base, but no tensor is there for it; was "
                "the adapter saved whole?",
                "target_modules",
            )


def _check_kinds(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], supports: Collection[str]
) -> None:
    canonical = canonical_config(config, lora_modules(tensors))
    found = kinds_of(config, canonical, tensors)
    for kind in ADAPTER_KINDS:
        if kind in found and kind not in supports:
            raise AdapterUnsupported(
                f"not served here: {KIND_TEXTS[kind]} (found: {found[kind]})", found[kind]
            )


def _check_module(
    config: Mapping[str, Any],
    parts: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, int]],
    module: str,
    max_rank: int,
) -> None:
    for part, other in (("A.weight", "B.weight"), ("B.weight", "A.weight")):
        if other not in parts:
            raise AdapterInvalid(f"module {module!r} has lora_{part} but no lora_{other}", module)
    a, b = parts["A.weight"], parts["B.weight"]
    if config.get("target_modules") and not selects(config, module):
        raise AdapterInvalid(
            f"tensor {a.name!r}: the config does not select its module (target_modules)",
            "target_modules",
        )
    for tensor in (a, b):
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise _invalid(tensor, f"has shape {tensor.shape}; expected two sizes above 0")
    rank = rank_of(config, module)
    if shapes:
        if module not in shapes:
            raise _invalid(a, _unknown_module(module, shapes))
        out_size, in_size = shapes[module]
        if config.get("fan_in_fan_out"):
            out_size, in_size = in_size, out_size
        expected = {a: (rank, in_size), b: (out_size, rank)}
    else:
        expected = {a: (rank, a.shape[1]), b: (b.shape[0], rank)}
    for tensor, shape in expected.items():
        if tensor.shape != shape:
            raise _invalid(
                tensor,
                f"has shape {tensor.shape}; expected {shape} from the config's rank {rank} and the "
                "base's module",
            )
    if max_rank and rank > max_rank:
        raise AdapterUnsupported(
            f"rank {rank} of {module!r} is more than the {max_rank} that this engine takes; raise "
            "its largest rank or train with a smaller r",
            "r",
        )


def _unknown_module(module: str, shapes: Mapping[str, tuple[int, int]]) -> str:
    same = sorted(name for name in shapes if name.rpartition(".")[2] == module.rpartition(".")[2])
    hint = f" (it has {same[0]!r} to {same[-1]!r})" if same else ""
    return f"is for module {module!r}, which the base does not have{hint}; trained on another base?"


def _invalid(tensor: Tensor, what: str) -> AdapterInvalid:
    return AdapterInvalid(f"tensor {tensor.name!r} {what}", tensor.name)
