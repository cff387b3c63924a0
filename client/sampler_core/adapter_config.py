"""The configuration of a LoRA adapter: parsed strictly, reduced to what changes the forward pass.

The reduced ("canonical") form is what digests cover and what stores hold. Fields that select
modules (target_modules, exclude_modules, layers_to_transform, layers_pattern) become the sorted
full names of the modules that have tensors: PEFT rewrites these fields when it loads or builds a
model, the resolved set stays the same.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sampler_api.errors import AdapterInvalid, AdapterUnsupported

__all__ = [
    "CONFIG_FILE",
    "canonical_config",
    "changes_base",
    "encode_config",
    "parse_config",
    "peft_config_dict",
    "stored_config",
    "validate_config",
]

CONFIG_FILE: Final = "adapter_config.json"

_SELECTORS: Final = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
)
# Names, versions, and what matters only while training or at initialisation.
_IRRELEVANT: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
_FLAGS: Final = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias")
_BIASES: Final = ("none", "all", "lora_only")
# PEFT subtracts from the base what these put into the adapter: without it the weights are wrong.
_BASE_CHANGING_INITS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


def parse_config(data: bytes, label: str) -> dict[str, Any]:
    """The fields of an adapter_config.json; ``label`` names the file in errors.

    Raises AdapterInvalid, and AdapterUnsupported for another method than LoRA.
    """

    def refuse_constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON number")

    try:
        config = json.loads(data.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AdapterInvalid(f"{label}: malformed JSON ({error})", "adapter_path") from None
    if not isinstance(config, dict):
        raise AdapterInvalid(f"{label}: not a JSON object", "adapter_path")
    validate_config(config, label)
    return config


def peft_config_dict(config: object) -> dict[str, Any] | None:
    """A PEFT config object or mapping as plain JSON values; ``None`` for anything else.

    Paths and models are not configs. Raises AdapterInvalid, AdapterUnsupported.
    """
    values: Any
    if isinstance(config, Mapping):
        values = config
    elif hasattr(config, "peft_type") and hasattr(config, "to_dict"):
        values = config.to_dict()
    else:
        return None
    plain = {str(name): _plain(value, str(name)) for name, value in values.items()}
    validate_config(plain, "config")
    return plain


def validate_config(config: Mapping[str, Any], label: str) -> None:
    """Check the fields that this version knows. Raises AdapterInvalid, AdapterUnsupported."""

    def invalid(field: str, expected: str) -> AdapterInvalid:
        found = config.get(field)
        return AdapterInvalid(f"{label}: {field} must be {expected}, not {found!r}", field)

    method = config.get("peft_type")
    if not isinstance(method, str):
        raise invalid("peft_type", "'LORA'")
    if method != "LORA":
        raise AdapterUnsupported(
            f"{label}: peft_type {method!r} is not served; only LORA is", "peft_type"
        )
    if not _is_int(config.get("r"), 1):
        raise invalid("r", "a rank of 1 or more")
    if not _is_number(config.get("lora_alpha")):
        raise invalid("lora_alpha", "a finite number")
    for flag in _FLAGS:
        if config.get(flag) not in (None, False, True) or type(config.get(flag)) is int:
            raise invalid(flag, "true or false")
    if config.get("bias") not in (None, *_BIASES):
        raise invalid("bias", f"one of {', '.join(_BIASES)}")
    if not _is_map(config.get("rank_pattern"), lambda value: _is_int(value, 1)):
        raise invalid("rank_pattern", "a map from module names to ranks of 1 or more")
    if not _is_map(config.get("alpha_pattern"), _is_number):
        raise invalid("alpha_pattern", "a map from module names to finite numbers")
    for field in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        if not _is_names(config.get(field)):
            raise invalid(field, "a text or a list of texts")
    layers = config.get("layers_to_transform")
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if not all(_is_int(number, 0) for number in numbers):
        raise invalid("layers_to_transform", "a layer number or a list of them")


def changes_base(config: Mapping[str, Any]) -> bool:
    """Whether the adapter fits only a base that its initialisation has changed (PiSSA, ...)."""
    init = config.get("init_lora_weights")
    return isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS)


def canonical_config(config: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any]:
    """What of ``config`` changes the forward pass, in one form for one meaning.

    ``modules`` are the full names of the modules that have LoRA tensors. Fields that are off are
    left out, so that a config written by an older or newer PEFT means the same. Unknown fields that
    are on stay: what is not understood must not be taken for equal.
    """
    kept: dict[str, Any] = {"r": config["r"], "lora_alpha": _canonical(config["lora_alpha"])}
    for name, value in config.items():
        if name in kept or name in _IRRELEVANT or name in _SELECTORS:
            continue
        if value in (None, False, "", "none") or value in ([], {}):
            continue
        kept[name] = _canonical(value)
    if isinstance(kept.get("modules_to_save"), list):
        kept["modules_to_save"] = sorted(kept["modules_to_save"])
    if changes_base(config):
        kept["init_lora_weights"] = config["init_lora_weights"]
    if config.get("use_qalora"):
        kept["qalora_group_size"] = config.get("qalora_group_size")
    kept["target_modules"] = sorted(modules)
    return kept


def stored_config(canonical: Mapping[str, Any], config: Mapping[str, Any]) -> bytes:
    """The adapter_config.json as engines load it: what matters, without names of the source.

    A list of target modules stays as it was given, with the fields that narrow it: whoever knows
    the base can still see whether tensors are missing. A pattern becomes full names: not every
    engine reads patterns.
    """
    selectors = {}
    if isinstance(config.get("target_modules"), list):
        selectors = {name: config[name] for name in _SELECTORS if config.get(name) is not None}
        selectors["target_modules"] = sorted(config["target_modules"])
    return encode_config(
        {
            "base_model_name_or_path": None,
            "bias": "none",
            "inference_mode": True,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            **canonical,
            **selectors,
        }
    )


def encode_config(config: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: equal bytes for equal configs."""
    return json.dumps(
        config, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _plain(value: Any, field: str) -> Any:
    value = getattr(value, "value", value)  # enums of PEFT
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, field) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item, field) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, field) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    raise AdapterInvalid(f"config: {field} holds a {type(value).__name__}, no plain value", field)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return value


def _is_int(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 1 << 31


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_names(value: object) -> bool:
    if value is None or isinstance(value, str):
        return True
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_map(value: object, is_good: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(key, str) and is_good(item) for key, item in value.items()
    )
