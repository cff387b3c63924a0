"""A rank's part of a model and of adapters.

A split layer stays a plain linear layer with fewer rows or columns; a hook behind it sums or joins
what the ranks have made. Hooks of adapters come before it, so that a part of an adapter's product
is added to a part of the layer's, and one sum serves both.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from ..lora import LoraWeights
from ..weights import Sharder
from .group import Group
from .plan import Cut, Style, cut_of, refusal, splits_heads, style_of

__all__ = ["lora_part", "shard", "sharder"]

_BIAS: Final = "bias_of_sum"


def shard(model: Any, device: torch.device, group: Group) -> tuple[int, dict[str, Cut]]:
    """Leave one rank's part of a model, on its device: key heads of a layer, and how linear layers
    were cut. Raises ModelInvalid."""
    ranks, plan = group.size, getattr(model, "tp_plan", None) or {}
    config = model.config.get_text_config()
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = model.get_output_embeddings()
    cuts: dict[str, Cut] = {}
    is_summed = False
    for name, module in list(model.named_modules()):
        style = style_of(plan, name, ranks)
        if style is Style.SUMMED:
            is_summed = True
            module.register_forward_hook(_sum_hook(group))
        elif style is not None and style is not Style.WHOLE:
            cut = cuts[name] = cut_of(name, module, style, ranks, key_heads)
            is_summed |= cut.by_rows
            _cut_linear(module, cut, device, group, is_head=module is head)
        for own, _ in list(module.named_parameters(recurse=False)):
            full = f"{name}.{own}" if name else own
            part = style_of(plan, full, ranks)
            if part is not None and part is not Style.WHOLE:
                _cut_experts(module, own, full, part, device, group)
    if not is_summed:
        raise refusal(ranks, f"the plan of {type(model).__name__} splits no layer")
    model.to(device)
    if not splits_heads(plan):
        return key_heads, cuts
    left = max(1, key_heads // ranks)
    for module in model.modules():
        if hasattr(module, "num_key_value_groups"):
            module.num_key_value_groups = config.num_attention_heads // ranks // left
    return left, cuts


def sharder(group: Group) -> Sharder:
    """What leaves the part of a rank of this group."""
    return lambda model, device: shard(model, device, group)[0]


def lora_part(weights: LoraWeights, cut: Cut | None, rank: int) -> LoraWeights:
    """What a rank computes of an adapter on a layer: the parts add up, or lie side by side, as the
    layer's own do."""
    if cut is None:
        return weights
    part = cut.part(rank)
    if cut.by_rows:
        bias = None if rank else weights.bias
        return LoraWeights(weights.a[:, part].contiguous(), weights.b, bias, weights.scale)
    bias = None if weights.bias is None else weights.bias[part].contiguous()
    return LoraWeights(weights.a, weights.b[part].contiguous(), bias, weights.scale)


def _cut_linear(
    layer: nn.Linear, cut: Cut, device: torch.device, group: Group, *, is_head: bool
) -> None:
    part = cut.part(group.rank)
    if cut.by_rows:
        layer.weight = _held(layer.weight[:, part], device)
        layer.in_features = layer.weight.shape[1]
        # Added once, to the sum.
        layer.register_parameter(_BIAS, layer.bias)
        layer.register_parameter("bias", None)
        if cut.style is Style.PICKED_ROWS:
            layer.register_forward_pre_hook(lambda module, args: (args[0][..., part],))
        layer.register_forward_hook(_sum_hook(group))
        return
    layer.weight = _held(layer.weight[part], device)
    layer.out_features = layer.weight.shape[0]
    if layer.bias is not None:
        layer.bias = _held(layer.bias[part], device)
    if cut.style is Style.JOINED_COLUMNS:
        join = group.join_at_first if is_head else group.join
        layer.register_forward_hook(lambda module, args, output: join(output, cut.size))


def _cut_experts(
    module: nn.Module, own: str, name: str, style: Style, device: torch.device, group: Group
) -> None:
    """Cut a parameter that holds all experts of a layer: [experts, out, in]."""
    whole = module.get_parameter(own)
    if whole.dim() != 3 or style not in (Style.PACKED_COLUMNS, Style.ROWS):
        raise refusal(group.size, f"{name} {tuple(whole.shape)} is not served as it is to be split")
    axis, halves = (1, 2) if style is Style.PACKED_COLUMNS else (2, 1)
    size = whole.shape[axis] // halves
    if size % group.size:
        raise refusal(
            group.size, f"{name} has a width of {size}, which cannot be divided by {group.size}"
        )
    width = size // group.size
    start = group.rank * width
    parts = [whole.narrow(axis, half * size + start, width) for half in range(halves)]
    setattr(module, own, _held(torch.cat(parts, axis), device))


def _held(part: Tensor, device: torch.device) -> nn.Parameter:
    """A parameter that keeps nothing of the whole alive."""
    data = part.detach().to(device, copy=True, memory_format=torch.contiguous_format)
    return nn.Parameter(data, requires_grad=False)


def _sum_hook(group: Group) -> Any:
    def total(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        summed = group.sum(output)
        bias: Tensor | None = getattr(module, _BIAS, None)
        return summed if bias is None else summed.add_(bias)

    return total
