"""Which layers of a model are split over ranks, and how: what transformers' own plan says.

The plan is a dictionary of module names, with ``*`` for numbers, and styles. transformers carries
it out with DTensors, on the accelerator of the machine; here the weights stay plain tensors, so
that packed products and adapters work on them as on whole ones, on the device that was asked for.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from torch import nn

from sampler_api.errors import ModelInvalid

__all__ = ["Cut", "Style", "check_config", "cut_of", "refusal", "style_of"]

FIELD: Final = "tensor_parallel_size"


class Style(Enum):
    """What a rank holds of a layer, and what the layer's output is on it."""

    COLUMNS = auto()
    """Some outputs; the next layer takes them as they are."""
    JOINED_COLUMNS = auto()
    """Some outputs; every rank gets all of them."""
    ROWS = auto()
    """The weights of some inputs, which are all that it gets; outputs are summed over the ranks."""
    PICKED_ROWS = auto()
    """As ``ROWS``, but every rank gets all inputs."""
    PACKED_COLUMNS = auto()
    """Of a parameter [experts, 2 n, in]: outputs of its first and of its second half."""
    SUMMED = auto()
    """Nothing by itself: a module whose parts give a part of the sum."""
    WHOLE = auto()
    """All of it."""


_STYLES: Final = {
    "colwise": Style.COLUMNS,
    "colwise_gather_output": Style.JOINED_COLUMNS,
    "colwise_rep": Style.JOINED_COLUMNS,
    "rowwise": Style.ROWS,
    "rowwise_split_input": Style.PICKED_ROWS,
    "rowwise_rep": Style.PICKED_ROWS,
    "packed_colwise": Style.PACKED_COLUMNS,
    "moe_tp_experts": Style.SUMMED,
    "all_reduce": Style.SUMMED,
    # Looking a row up is cheaper than asking the rank that has it.
    "embedding_rowwise": Style.WHOLE,
    # These two are about gradients.
    "replicated_with_grad_allreduce": Style.WHOLE,
    "mla_kv_a_proj": Style.WHOLE,
}

_KEYS: Final = ("k_proj", "kv_b_proj", "query_key_value", "qkv_proj")
"""Layers that make keys: where they are split, so are the heads of the cache."""
_KEYS_AND_VALUES: Final = ("k_proj", "v_proj")
"""Where there are fewer key heads than ranks, several ranks hold the same."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How one axis of ``size`` is split over ``ranks``.

    ``heads``: of a layer that makes fewer key heads than there are ranks, their number; else 0.
    """

    style: Style
    size: int
    ranks: int
    heads: int = 0

    @property
    def by_rows(self) -> bool:
        """The inputs are split, and the outputs are parts of a sum."""
        return self.style in (Style.ROWS, Style.PICKED_ROWS)

    @property
    def width(self) -> int:
        """The largest part."""
        if self.heads:
            return self.size // self.heads
        return -(-self.size // self.ranks)

    def part(self, rank: int) -> slice:
        """The indices that a rank has; those of the last one may be fewer."""
        place = rank * self.heads // self.ranks if self.heads else rank
        return slice(min(place * self.width, self.size), min((place + 1) * self.width, self.size))


def refusal(ranks: int, why: str) -> ModelInvalid:
    """The error of a model that cannot be split over so many ranks."""
    return ModelInvalid(f"tensorParallelSize {ranks}: {why}", FIELD)


def style_of(plan: dict[str, str], name: str, ranks: int) -> Style | None:
    """The style of a module or parameter; ``None`` where the plan does not name it.

    Raises ModelInvalid for a style that is not served.
    """
    pattern = re.sub(r"\.\d+(?=\.|$)", ".*", name)
    style = plan.get(pattern)
    if style is None:
        return None
    if style not in _STYLES:
        raise refusal(ranks, f"{pattern} is to be split as {style!r}, which is not served")
    return _STYLES[style]


def cut_of(name: str, layer: nn.Module, style: Style, ranks: int, key_heads: int) -> Cut:
    """How a layer is cut. Raises ModelInvalid where its size, or its kind, does not allow it."""
    if type(layer) is not nn.Linear:
        raise refusal(ranks, f"{name} is a {type(layer).__name__}, no linear layer")
    by_rows = style in (Style.ROWS, Style.PICKED_ROWS)
    size = layer.in_features if by_rows else layer.out_features
    is_of_heads = style is Style.COLUMNS and name.rpartition(".")[2] in _KEYS_AND_VALUES
    if is_of_heads and key_heads < ranks:
        return Cut(style, size, ranks, key_heads)
    # What is joined may have a smaller last part: nothing else depends on where it is cut.
    if style is not Style.JOINED_COLUMNS and size % ranks:
        axis = "inputs" if by_rows else "outputs"
        raise refusal(ranks, f"{name} has {size} {axis}, which cannot be divided by {ranks}")
    return Cut(style, size, ranks)


def check_config(config: Any, ranks: int) -> None:
    """Refuse what a model's configuration tells, before its weights are read. Raises ModelInvalid,
    which names tensorParallelSize and the number."""
    text = config.get_text_config()
    plan = getattr(text, "base_model_tp_plan", None) or {}
    if not plan:
        raise refusal(ranks, f"transformers has no plan to split a model of type {text.model_type}")
    if not splits_heads(plan):
        return
    heads = text.num_attention_heads
    if heads % ranks:
        raise refusal(ranks, f"num_attention_heads is {heads}, which cannot be divided by {ranks}")
    keys = getattr(text, "num_key_value_heads", None) or heads
    if keys % ranks and ranks % keys:
        raise refusal(
            ranks,
            f"num_key_value_heads is {keys}, which cannot be divided by {ranks}, nor {ranks} by it",
        )


def splits_heads(plan: dict[str, str]) -> bool:
    """Each rank has keys and values of its own heads only."""
    return any(
        name.rpartition(".")[2] in _KEYS and _STYLES.get(style) is Style.COLUMNS
        for name, style in plan.items()
    )
