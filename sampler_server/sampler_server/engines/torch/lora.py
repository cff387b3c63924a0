"""Reading a LoRA adapter with PEFT; what is left of it is A, B and a scale for each layer."""

import json
import warnings
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sampler_api.errors import AdapterInvalid, AdapterUnsupported

__all__ = ["LoraWeights", "read_lora"]

_NAME: Final = "adapter"

# Ways to start training that leave the base as it is. The others (PiSSA, OLoRA, CorDA, …) subtract
# the adapter from the base, so that it means nothing on the base alone.
_HARMLESS_STARTS: Final = {True, False, "gaussian", "eva", "orthogonal"}

_UNSERVED: Final = {
    "use_dora": "DoRA scales by the norm of base and adapter together",
    "modules_to_save": "it replaces whole modules of the base",
    "trainable_token_indices": "it changes embeddings",
    "layer_replication": "it changes the number of layers",
    "target_parameters": "it changes parameters that are not linear layers",
    "alora_invocation_tokens": "it starts at a token in the prompt",
    "use_qalora": "it is made for quantised bases",
    "arrow_config": "it routes between adapters",
    "use_bdlora": "it is block-diagonal",
    "monteclora_config": "it draws its weights",
    "velora_config": "it is a variant of LoRA",
}


class LoraWeights:
    """``B(A(x)) · scale`` of one linear layer: A [r, in], B [out, r]."""

    __slots__ = ("a", "b", "bias", "scale")

    def __init__(self, a: Tensor, b: Tensor, bias: Tensor | None, scale: float) -> None:
        self.a = a
        self.b = b
        self.bias = bias
        self.scale = scale

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move and cast in place."""
        self.a = self.a.to(device, dtype)
        self.b = self.b.to(device, dtype)
        self.bias = self.bias.to(device, dtype) if self.bias is not None else None

    def delta(self, rows: Tensor) -> Tensor:
        """What the adapter adds for inputs [n, in]: [n, out]."""
        return linear(linear(rows, self.a), self.b, self.bias).mul_(self.scale)


def read_lora(skeleton: nn.Module, directory: Path) -> dict[str, LoraWeights]:
    """Weights by module name; the skeleton, a copy without weights, is used up."""
    from peft import LoraConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        config = PeftConfig.from_pretrained(str(directory))
        # Not load_file, of which a few objects per tensor stay for ever (safetensors 0.8.0).
        tensors = load((directory / "adapter_model.safetensors").read_bytes())
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        json.JSONDecodeError,
        SafetensorError,
    ) as error:
        raise AdapterInvalid(f"{directory}: {_first_line(error)}") from error
    if not isinstance(config, LoraConfig):
        raise AdapterUnsupported(f"{directory}: {config.peft_type} is not LoRA")
    _refuse(config, directory)
    config.init_lora_weights = False
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            # PEFT warns about what training or merging would need.
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, skeleton, _NAME, low_cpu_mem_usage=True)
            _materialise(skeleton)
            result: Any = set_peft_model_state_dict(skeleton, tensors, _NAME)
    # PEFT raises whatever its depths raise.
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise AdapterInvalid(f"{directory}: {_first_line(error)}") from error
    lost = [name for name in result.missing_keys if f".{_NAME}." in name]
    if lost:
        raise AdapterInvalid(f"{directory}: there is no tensor for {lost[0]}")
    if result.unexpected_keys:
        raise AdapterInvalid(f"{directory}: the model has no place for {result.unexpected_keys[0]}")
    return _extract(skeleton, tensors, directory)


def _materialise(skeleton: nn.Module) -> None:
    """Give the adapter's tensors, and only these, memory: float32 on the CPU."""
    from peft.tuners.lora.layer import LoraLayer

    for module in skeleton.modules():
        if isinstance(module, LoraLayer):
            for part in (module.lora_A, module.lora_B):
                part.to_empty(device="cpu").float()


def _refuse(config: Any, directory: Path) -> None:
    for field, reason in _UNSERVED.items():
        if getattr(config, field, None):
            raise AdapterUnsupported(f"{directory}: {field} is not served: {reason}", field)
    if config.bias != "none":
        raise AdapterUnsupported(f"{directory}: bias={config.bias!r} changes the base", "bias")
    start = config.init_lora_weights
    if not isinstance(start, (bool, str)) or start not in _HARMLESS_STARTS:
        raise AdapterUnsupported(
            f"{directory}: init_lora_weights={start!r} changes the base", "init_lora_weights"
        )


def _extract(
    skeleton: nn.Module, tensors: dict[str, Tensor], directory: Path
) -> dict[str, LoraWeights]:
    from peft.tuners.lora import Linear
    from peft.tuners.lora.layer import LoraLayer

    head = cast(Any, skeleton).get_output_embeddings()
    found: dict[str, LoraWeights] = {}
    taken = 0
    for name, module in skeleton.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        base = layer.get_base_layer()
        is_plain = isinstance(module, Linear) and type(base) is nn.Linear
        if not is_plain or module is head or base is head or layer.lora_variant:
            raise AdapterUnsupported(f"{directory}: {name} is not an inner linear layer", name)
        parts = [layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight]
        bias = layer.lora_B[_NAME].bias
        parts += [bias] if bias is not None else []
        if not all(bool(part.isfinite().all()) for part in parts):
            raise AdapterInvalid(f"{directory}: {name} has numbers that are not finite", name)
        taken += len(parts)
        data = [part.detach() for part in parts]
        extra = data[2] if len(data) > 2 else None
        found[name] = LoraWeights(data[0], data[1], extra, float(layer.scaling[_NAME]))
    # The read-back: every tensor of the file has a place, so that none was dropped in silence.
    if taken != len(tensors) or not found:
        raise AdapterInvalid(
            f"{directory}: {len(tensors)} tensors in the file, {taken} have a place"
        )
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
