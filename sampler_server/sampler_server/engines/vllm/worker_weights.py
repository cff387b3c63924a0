"""The weights of one of vLLM's workers: read again, and compared with the files.

vLLM warns of tensors that it did not load, and goes on; a worker that says nothing may hold the old
ones. vLLM's worker class inherits from this one (``worker_extension_cls``).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from vllm.lora.layers.base import BaseLayerWithLoRA

from sampler_core.base_files import weight_shards

__all__ = ["WorkerWeights"]

_LOADS_INSIDE = hasattr(BaseLayerWithLoRA, "load_weights")
"""vLLM's loader finds the tensors of layers that add adapters to them."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class WorkerWeights:
    """Compares tensors that vLLM keeps under their own name and in their own shape: norms and
    biases always; of others those that are neither joined, split among workers nor repacked."""

    model_runner: Any

    def sampler_reload(self, directory: str, unwraps: bool = not _LOADS_INSIDE) -> None:
        """Have vLLM's own loader read the model in a directory over the one that serves."""
        model = self.model_runner.get_model()
        with _without_lora(model) if unwraps else nullcontext():
            self.reload_weights(weights_path=directory)  # type: ignore[attr-defined]

    def sampler_comparable(self, directory: str) -> int:
        """How many tensors can be compared."""
        return sum(1 for _ in self._pairs(Path(directory)))

    def sampler_differing(self, directory: str) -> list[str]:
        """Names of those that are not what the files say, in the dtype of the engine."""
        differing = []
        for name, held, file in self._pairs(Path(directory)):
            wanted = file.get_tensor(name).to(held.dtype)
            found = held.detach().cpu()
            # Some models keep a matrix the other way round.
            if not torch.equal(found, wanted) and not (
                wanted.dim() == 2 and torch.equal(found, wanted.T.reshape(found.shape))
            ):
                differing.append(name)
        return differing

    def _pairs(self, directory: Path) -> Iterator[tuple[str, Tensor, Any]]:
        model: Any = self.model_runner.get_model()
        held = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in model.named_parameters()
        }
        for shard in weight_shards(directory):
            with safe_open(str(shard), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    parameter = held.get(name)
                    if (
                        parameter is not None
                        and parameter.dtype in _FLOATS
                        and list(parameter.shape) == file.get_slice(name).get_shape()
                    ):
                        yield name, parameter, file


@contextmanager
def _without_lora(model: nn.Module) -> Iterator[None]:
    """With the plain layers in place of those that add adapters to them."""
    wrapped = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, BaseLayerWithLoRA) and not isinstance(parent, BaseLayerWithLoRA)
    ]
    for parent, name, child in wrapped:
        setattr(parent, name, child.base_layer)
    try:
        yield
    finally:
        for parent, name, child in wrapped:
            setattr(parent, name, child)
