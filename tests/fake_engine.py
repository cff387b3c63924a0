"""An engine that does what a test says, and remembers what it was asked."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sampler_server.engines.base import (
    Delta,
    EngineInfo,
    EngineProgress,
    EngineRequest,
    Finish,
    Sink,
    Weights,
)

__all__ = ["INFO", "FakeEngine"]

INFO = EngineInfo(
    engine="fake",
    model="fake",
    vocab_size=1000,
    context_limit=100,
    slots=8,
    kv_tokens=10_000,
    eos_ids=(0,),
    base_digest="sha256:base",
)


class FakeEngine:
    """Implements ``Engine``; deltas go out only through ``give``."""

    def __init__(self, info: EngineInfo = INFO) -> None:
        self.info = info
        self.requests: list[EngineRequest] = []
        self.cancelled: list[int] = []
        self.state = EngineProgress()
        self.loaded: list[str] = []
        self.fault: Exception | None = None
        """What the next update of the weights raises."""

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self.requests += requests

    def cancel(self, keys: Iterable[int]) -> None:
        self.cancelled += keys

    def load_adapter(self, digest: str, directory: Path) -> None:
        self.loaded.append(digest)

    def unload_adapter(self, digest: str) -> None:
        self.loaded.remove(digest)

    def update_weights(self, weights: Weights) -> None:
        if self.fault is not None:
            raise self.fault
        self.info = replace(self.info, base_digest=weights.digest)

    def progress(self) -> EngineProgress:
        return self.state

    def close(self) -> None: ...

    def abandon(self) -> None: ...

    def give(
        self,
        index: int,
        tokens: Sequence[int] = (),
        finish: Finish | None = None,
        logprobs: int | None = None,
    ) -> None:
        """A delta for the ``index``-th request so far; ``logprobs`` values, as many as tokens."""
        count = len(tokens) if logprobs is None else logprobs
        wants = self.requests[index].params.logprobs is not None
        values = np.zeros(count if wants else 0, np.float32).tobytes()
        ids = np.array(tokens, np.int32).tobytes()
        self.sink([Delta(self.requests[index].key, ids, values, finish=finish)])
