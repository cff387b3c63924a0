"""``vLLMSampler``: vLLM's engine behind the Sampler interface, in the caller's own process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampler_api.errors import InvalidRequest
from sampler_core.bases import base_digest, linear_shapes
from sampler_core.checked_weights import base_layout

from .engines.vllm import VllmEngine, VllmOptions
from .local import STALL_SECONDS
from .local_sampler import LocalSampler, model_directory

__all__ = ["vLLMSampler"]


class vLLMSampler(LocalSampler):
    """Samples with vLLM, whose processes belong to this one.

    ``model_id``: a model directory or hub id. ``engine_args``: arguments of vLLM's own, by the
    names of its ``AsyncEngineArgs``; an unknown one is refused with the nearest name. Further
    keywords are the fields of :class:`~sampler_server.engines.vllm.options.VllmOptions`:
    ``dtype``, ``slots``, ``kv_tokens``, ``max_adapters``, ``max_lora_rank``, ``logprobs_mode`` and
    so on. The constructor blocks until the model is loaded; ``with`` or ``close()`` ends vLLM's
    processes. Raises ModuleNotFoundError without vLLM, Unsupported for a version that is not
    served, InvalidRequest for a wrong argument, ModelInvalid when the model does not load.

    vLLM starts processes that import the caller's main module: a script needs
    ``if __name__ == "__main__":``. An engine that makes no step for ``stall_seconds`` while calls
    wait is given up: they raise EngineDead.
    """

    def __init__(
        self,
        model_id: str | Path,
        engine_args: Mapping[str, Any] | None = None,
        *,
        tokenizer_dir: str | Path | None = None,
        stall_seconds: float = STALL_SECONDS,
        **options: Any,
    ) -> None:
        directory = model_directory(model_id)
        if directory is None:
            raise InvalidRequest(
                f"model_id: must be a directory or hub id, not a {type(model_id).__name__}",
                "model_id",
            )
        settings = VllmOptions(
            directory,
            engine_args=dict(engine_args or {}),
            **{"base_digest": base_digest(directory), **options},
        ).settled()
        super().__init__(
            VllmEngine(settings),
            texts=directory if tokenizer_dir is None else Path(tokenizer_dir),
            shapes=linear_shapes(directory),
            layout=base_layout(directory),
            max_adapters=settings.max_adapters,
            max_rank=settings.max_lora_rank,
            model_name=settings.name or None,
            stall_seconds=stall_seconds,
        )
