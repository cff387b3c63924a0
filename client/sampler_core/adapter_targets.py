"""Which modules a LoRA config selects, and with which rank: PEFT's rules. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sampler_api.errors import AdapterInvalid

__all__ = ["OUTPUT_AND_EMBEDDINGS", "is_embedding_or_output", "rank_of", "selects"]

ALL_LINEAR: Final = "all-linear"

OUTPUT_AND_EMBEDDINGS: Final = frozenset(
    {
        "embed_in",
        "embed_out",
        "embed_tokens",
        "embedding",
        "lm_head",
        "word_embeddings",
        "wpe",
        "wte",
    }
)
"""Last parts of the names of input embeddings and output layers."""

_FIRST_INDEX = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


def is_embedding_or_output(module: str) -> bool:
    """Whether a module is an embedding or the output layer, by its name."""
    return module.rpartition(".")[2] in OUTPUT_AND_EMBEDDINGS


def selects(config: Mapping[str, Any], module: str) -> bool:
    """Whether the config puts LoRA on a linear module, given its full name in the base.

    Raises AdapterInvalid for a pattern that is no regular expression.
    """
    excluded = config.get("exclude_modules") or []
    if isinstance(excluded, str):
        if _match("exclude_modules", excluded, module):
            return False
    elif _is_named(excluded, module):
        return False
    saved = config.get("modules_to_save") or []
    for name in [saved] if isinstance(saved, str) else saved:
        if _match("modules_to_save", rf"(.*\.)?{name}(\..*)?", module):
            return False
    targets = config.get("target_modules") or []
    if isinstance(targets, str):
        if targets.lower() == ALL_LINEAR:
            return not is_embedding_or_output(module)
        return _match("target_modules", targets, module)
    if module in targets:
        return True
    return _is_named(targets, module) and _is_in_layers(config, module)


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank of a module: the first matching entry of ``rank_pattern``, else ``r``."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if _match("rank_pattern", rf"(.*\.)?({pattern})", module):
            return int(rank)
    return int(config["r"])


def _is_named(names: Iterable[str], module: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_in_layers(config: Mapping[str, Any], module: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", module)
        except re.error as error:
            raise _no_pattern("layers_pattern", pattern, error) from None
        if found:
            break
    else:
        found = None if patterns else _FIRST_INDEX.match(module)
    if found is None:
        return False
    return int(found["index"]) in ([layers] if isinstance(layers, int) else layers)


def _match(field: str, pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(pattern, module) is not None
    except re.error as error:
        raise _no_pattern(field, pattern, error) from None


def _no_pattern(field: str, pattern: str, error: re.error) -> AdapterInvalid:
    return AdapterInvalid(f"{field}: {pattern!r} is no regular expression ({error})", field)
