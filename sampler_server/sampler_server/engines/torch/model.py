"""The model of an engine: loaded, checked, and called on packed steps.

Any decoder-only transformers model serves that calls attention through ``AttentionInterface`` and
whose layers attend to all earlier tokens or to a window of them. Others are refused here, in one
line: by their config where it says so, and by comparing a short text with the model's own forward
pass where it does not.
"""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import torch
from torch import Tensor

from sampler_api.errors import ModelInvalid

from ..base import Weights
from . import attention
from .layout import Layout
from .options import DTypeName, TorchOptions
from .shape import KVShape
from .weights import NewWeights, Sharder, put_weights, read_weights

__all__ = ["ServedModel", "load_model"]

_SERVED_LAYERS: Final = {"full_attention", "sliding_attention"}
# These change the angles of all tokens of a batch when one sequence is long.
_BATCH_WIDE_ROPE: Final = {"dynamic", "longrope"}


class ServedModel:
    """A transformers model, or one rank's part of it, that runs packed steps."""

    def __init__(self, model: Any, device: torch.device, kv_heads: int | None = None) -> None:
        self.model = model
        self.device = device
        self._own_attention = model.config._attn_implementation
        config = model.config.get_text_config()
        head_dim = getattr(config, "head_dim", None)
        query_heads = config.num_attention_heads
        self.shape = KVShape(
            layers=config.num_hidden_layers,
            heads=kv_heads or getattr(config, "num_key_value_heads", None) or query_heads,
            dim=head_dim or config.hidden_size // query_heads,
            dtype=model.dtype,
            device=device,
        )
        self.context_limit = int(config.max_position_embeddings)
        self.vocabulary = int(model.get_input_embeddings().num_embeddings)
        self.eos_ids = tuple(sorted(_eos_ids(model)))
        self._keeps_rows = "logits_to_keep" in inspect.signature(model.forward).parameters
        attention.register()

    def take_over(self) -> None:
        """From here on the model attends through rows."""
        self.model.set_attn_implementation(attention.NAME)
        if self.model.config._attn_implementation != attention.NAME:
            raise ModelInvalid(
                f"{type(self.model).__name__} does not let its attention be replaced"
            )

    def give_back(self) -> None:
        """Undo ``take_over``."""
        self.model.set_attn_implementation(self._own_attention)

    def forward(self, layout: Layout, keep: Sequence[int]) -> Tensor:
        """Logits [n, V] of n tokens of a step."""
        rows = torch.tensor(keep, device=self.device)
        wanted: dict[str, Tensor] = {"logits_to_keep": rows} if self._keeps_rows else {}
        logits: Tensor = self.model(
            input_ids=layout.ids,
            position_ids=layout.positions,
            use_cache=False,
            sampler_layout=layout,
            **wanted,
        ).logits[0]
        return logits if self._keeps_rows else logits[rows]

    def plain_logprobs(self, ids: Iterable[int]) -> Tensor:
        """Logprobs f32 [T, V] of the model's own forward pass, before ``take_over``."""
        with torch.inference_mode():
            tokens = torch.tensor([list(ids)], device=self.device)
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    def read_weights(self, options: TorchOptions, weights: Weights) -> NewWeights:
        """Load new weights beside those that serve; on any thread. Raises WeightsInvalid,
        EngineFailed."""
        return read_weights(options, self.model, self.device, weights)

    def put_weights(self, new: NewWeights, *, is_packed: bool) -> None:
        """Serve weights that were read: all of them or, when it raises, none. Raises EngineDead
        when it is a mixture."""
        put_weights(self.model, new.tensors, is_packed=is_packed)

    def forget_weights(self, new: NewWeights) -> None:
        """They will not be put."""


def load_model(options: TorchOptions, shard: Sharder | None = None) -> ServedModel:
    """Load or take the model of the options; raises ModelInvalid."""
    device = _device(options.device or _best_device())
    if options.dtype not in get_args(DTypeName):
        names = ", ".join(map(repr, get_args(DTypeName)))
        raise ModelInvalid(f"dtype: must be one of {names}, not {options.dtype!r}", "dtype")
    if options.model is None or isinstance(options.model, (str, Path)):
        model = _from_files(options, device)
    else:
        model = options.model
    model.eval()
    _refuse(model)
    if shard is not None:
        return ServedModel(model, device, shard(model, device))
    model.to(device)
    return ServedModel(model, device)


def _device(name: Any) -> torch.device:
    """The device, tried. Raises ModelInvalid that names ``device``."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    # torch has an error of its own for each way in which a device is not there.
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelInvalid(
            f"device: {name!r} cannot be used on this machine: {line}", "device"
        ) from error
    return device


def _from_files(options: TorchOptions, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    loader = options.model_cls or AutoModelForCausalLM
    # Saved weights are often bfloat16, which few CPUs multiply faster than float32.
    dtype = options.dtype
    if dtype == "auto" and device.type == "cpu":
        dtype = "float32"
    try:
        model: Any = loader.from_pretrained(
            str(options.model),
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=options.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInvalid(f"model: {options.model} cannot be loaded: {line}", "model") from error
    return model


def _refuse(model: Any) -> None:
    name = type(model).__name__
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelInvalid(f"{name} has an encoder; this engine serves decoder-only models")
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelInvalid(f"{name} does not call attention through AttentionInterface")
    if getattr(model, "_is_stateful", False):
        raise ModelInvalid(f"{name} keeps a state that is not keys and values")
    others = set(getattr(config, "layer_types", None) or ()) - _SERVED_LAYERS
    if others:
        raise ModelInvalid(f"{name} has layers of kind {', '.join(sorted(others))}")
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    kinds = {part.get("rope_type") for part in nested} & _BATCH_WIDE_ROPE
    if kinds:
        raise ModelInvalid(
            f"{name} uses {', '.join(sorted(map(str, kinds)))} position embeddings, which make"
            " a sequence depend on others in its batch"
        )


def _eos_ids(model: Any) -> set[int]:
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), model.config):
        value = getattr(config, "eos_token_id", None)
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    return found


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
