"""A vLLM engine on a tiny model, and what its sink received. Needs .venv-vllm."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from tests.reference import TOLERANCE as EXACT
from tests.tiny_models import tiny_model
from tests.torch_harness import Collected

from sampler_server.engines.base import Delta, EngineRequest
from sampler_server.engines.vllm import VllmEngine, VllmOptions

__all__ = ["IS_CPU", "TOLERANCE", "VllmHarness"]

IS_CPU = not torch.cuda.is_available()
TOLERANCE = EXACT if IS_CPU else 3e-2
"""Largest difference of a logprob from that of a plain forward pass in float32."""

_SECONDS = 120
"""A busy machine shares the cores with vLLM's processes."""


class VllmHarness:
    """Starts an engine; waits for what comes out."""

    def __init__(self, model: Path | None = None, **options: Any) -> None:
        # Adapters on a GPU are computed in 16 bits only.
        dtype = "float32" if IS_CPU else "float16"
        settings = {"dtype": dtype, "kv_tokens": 32_768, "slots": 32, **options}
        if not IS_CPU:
            own = {"gpu_memory_utilization": 0.3, "enforce_eager": True}
            settings["engine_args"] = own | settings.get("engine_args", {})
        self.engine = VllmEngine(VllmOptions(model or tiny_model(), **settings))
        self.found: dict[int, Collected] = {}
        self.steps: list[list[Delta]] = []
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.engine.start(self._sink)
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def _sink(self, deltas: Sequence[Delta]) -> None:
        with self._changed:
            self.steps.append(list(deltas))
            for delta in deltas:
                self.found.setdefault(delta.key, Collected()).deltas.append(delta)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until something that comes out makes it true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=_SECONDS)

    def has_finished(self, request: EngineRequest) -> bool:
        return request.key in self.found and self.found[request.key].finish is not None

    def has_started(self, request: EngineRequest) -> bool:
        return request.key in self.found

    def run(self, *requests: EngineRequest) -> list[Collected]:
        """Submit together, wait for all."""
        self.engine.submit(requests)
        self.wait(lambda: all(map(self.has_finished, requests)))
        return [self.found[request.key] for request in requests]
