"""Kinds of adapters beyond plain LoRA, and which engine serves which: one table."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .adapter_config import changes_base
from .adapter_targets import is_embedding_or_output
from .adapter_tensors import lora_part

__all__ = ["ADAPTER_KINDS", "KIND_TEXTS", "kinds_of", "supported_kinds"]

_REFUSED: Final = frozenset[str]()
_ALL: Final = frozenset({"sim", "torch", "vllm"})

ADAPTER_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "rslora": _ALL,
    "rank_pattern": _ALL,
    "alpha_pattern": _ALL,
    "dora": _REFUSED,
    "lm_head": _REFUSED,
    "embeddings": _REFUSED,
    "modules_to_save": _REFUSED,
    "bias": _REFUSED,
    "lora_bias": _REFUSED,
    "base_changing_init": _REFUSED,
    "other": _REFUSED,
}
"""The engines that serve each kind; every other engine refuses it with AdapterUnsupported.

An adapter of several kinds is refused for the first of them: LoRA on embeddings also saves them.
"""

KIND_TEXTS: Final[Mapping[str, str]] = {
    "rslora": "rank-stabilised scaling (use_rslora)",
    "rank_pattern": "ranks per module (rank_pattern)",
    "alpha_pattern": "scalings per module (alpha_pattern)",
    "dora": "DoRA (use_dora); train with use_dora=False",
    "modules_to_save": "modules saved whole (modules_to_save, tensors of the base); leave them out",
    "lm_head": "LoRA on the output layer; leave it out of target_modules",
    "embeddings": "LoRA on embeddings; leave them out of target_modules",
    "bias": "trained biases (bias); train with bias='none'",
    "lora_bias": "a bias of B (lora_bias); train with lora_bias=False",
    "base_changing_init": "an initialisation that changes the base (init_lora_weights); save with "
    "path_initial_model_for_weight_conversion",
    "other": "a field that this version does not know",
}
"""What a refusal says about a kind, and what to do."""

_PLAIN_FIELDS: Final = frozenset({"r", "lora_alpha", "target_modules", "fan_in_fan_out"})
_KIND_OF_FIELD: Final = {
    "use_rslora": "rslora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "use_dora": "dora",
    "modules_to_save": "modules_to_save",
    "bias": "bias",
    "lora_bias": "lora_bias",
    "init_lora_weights": "base_changing_init",
}


def supported_kinds(engine: str) -> frozenset[str]:
    """The kinds that an engine (``torch``, ``vllm``, ``sim``) serves beside plain LoRA."""
    return frozenset(kind for kind, engines in ADAPTER_KINDS.items() if engine in engines)


def kinds_of(
    config: Mapping[str, Any], canonical: Mapping[str, Any], names: Iterable[str]
) -> dict[str, str]:
    """Kinds that an adapter is of, with the field or tensor that says so.

    ``config`` as given, ``canonical`` its canonical form, ``names`` of its tensors.
    """
    found: dict[str, str] = {}
    for field in canonical.keys() - _PLAIN_FIELDS:
        found.setdefault(_KIND_OF_FIELD.get(field, "other"), field)
    if changes_base(config):
        found["base_changing_init"] = "init_lora_weights"
    for name in names:
        kind = _kind_of_tensor(name)
        if kind:
            found.setdefault(kind, name)
    return found


def _kind_of_tensor(name: str) -> str | None:
    part = lora_part(name)
    if part is None:
        return "modules_to_save"
    module, what = part
    if what.startswith("magnitude"):
        return "dora"
    if what == "B.bias":
        return "lora_bias"
    if what.startswith("embedding"):
        return "embeddings"
    if is_embedding_or_output(module):
        is_output = module.rpartition(".")[2] in {"lm_head", "embed_out"}
        return "lm_head" if is_output else "embeddings"
    return None
