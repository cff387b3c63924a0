"""A torch engine on a tiny model, and what its sink received."""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.tiny_models import tiny_model

from sampler_api.errors import SamplerError
from sampler_api.params import SamplingParams
from sampler_server.engines.base import Delta, EngineRequest
from sampler_server.engines.torch import TorchEngine, TorchOptions

__all__ = ["Collected", "TorchHarness", "ask", "prompt_of"]

_keys = itertools.count(1)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """Random ordinary token ids."""
    return [int(i) for i in np.random.default_rng(seed).integers(3, 1024, length)]


def ask(
    prompt: Sequence[int],
    *,
    output: Sequence[int] = (),
    seed: int | None = 0,
    adapter: str | None = None,
    group: int | None = None,
    bad_words: Sequence[Sequence[int]] = (),
    scores: bool = False,
    **params: Any,
) -> EngineRequest:
    """A request with a fresh key; logprobs on unless said otherwise."""
    params = {"max_tokens": 8, "logprobs": 1, **params}
    key = next(_keys)
    return EngineRequest(
        key=key,
        prompt_ids=np.array(prompt, np.int32),
        output_ids=np.array(output, np.int32),
        params=SamplingParams(**params),
        max_total=1 << 20 if params["max_tokens"] is None else params["max_tokens"],
        seed=seed,
        adapter=adapter,
        group=key if group is None else group,
        bad_words=tuple(tuple(word) for word in bad_words),
        want_prompt_logprobs=scores,
    )


class Collected:
    """What came out for one key."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def _column(self, name: str, dtype: str) -> NDArray[Any]:
        return np.frombuffer(b"".join(getattr(d, name) for d in self.deltas), dtype)

    @property
    def tokens(self) -> list[int]:
        return [int(token) for token in self._column("tokens", "<i4")]

    @property
    def logprobs(self) -> NDArray[np.float32]:
        return self._column("logprobs", "<f4")

    def top(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Ids and logprobs [T, k]."""
        ids, scores = self._column("top_ids", "<i4"), self._column("top_logprobs", "<f4")
        return ids.reshape(-1, k), scores.reshape(-1, k)

    @property
    def finish(self) -> str | None:
        return self.deltas[-1].finish if self.deltas else None

    @property
    def error(self) -> SamplerError | None:
        return self.deltas[-1].error if self.deltas else None


class TorchHarness:
    """Starts an engine; waits for what comes out."""

    def __init__(self, model: Any = None, **options: Any) -> None:
        self.engine = TorchEngine(TorchOptions(model or tiny_model(), device="cpu", **options))
        self.found: dict[int, Collected] = {}
        self.steps: list[list[Delta]] = []
        self._changed = threading.Condition()
        self.engine.start(self._sink)

    def _sink(self, deltas: Sequence[Delta]) -> None:
        with self._changed:
            self.steps.append(list(deltas))
            for delta in deltas:
                self.found.setdefault(delta.key, Collected()).deltas.append(delta)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=30)

    def has_finished(self, request: EngineRequest) -> bool:
        return request.key in self.found and self.found[request.key].finish is not None

    def has_started(self, request: EngineRequest) -> bool:
        return request.key in self.found

    def run(self, *requests: EngineRequest) -> list[Collected]:
        """Submit together, wait for all."""
        self.engine.submit(requests)
        self.wait(lambda: all(map(self.has_finished, requests)))
        return [self.found[request.key] for request in requests]
