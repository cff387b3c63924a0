"""Torch engines on a tiny model with adapters, and what plain forward passes say of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.reference import TOLERANCE, log_softmax, reference
from tests.tiny_adapters import tiny_adapter
from tests.tiny_models import Architecture, tiny_model
from tests.torch_harness import Collected, TorchHarness

from sampler_server.engines.base import EngineRequest

__all__ = ["ADAPTERS", "assert_plain", "engine", "plain_logprobs", "started"]

ADAPTERS = ("a1", "a2")


def started(architecture: Architecture = "qwen3", **options: Any) -> TorchHarness:
    harness = TorchHarness(tiny_model(architecture), **options)
    for name in ADAPTERS:
        harness.engine.load_adapter(name, tiny_adapter(name, architecture))
    return harness


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchHarness]:
    """Small chunks and few slots, so that every test also waits, chunks and moves rows."""
    harness = started(slots=8, kv_tokens=4096, prefill_tokens=16)
    yield harness
    harness.engine.close()


def plain_logprobs(
    request: EngineRequest, tokens: Sequence[int], architecture: Architecture = "qwen3"
) -> NDArray[np.float64]:
    """Raw logprobs f64 [P + T - 1, V] of one forward pass; row i scores token i + 1."""
    ids = [*request.prompt_ids.tolist(), *request.output_ids.tolist(), *tokens]
    logits = reference(architecture).logits(ids, request.adapter)
    return np.array([log_softmax(row) for row in logits[:-1]]).reshape(-1, logits.shape[1])


def assert_plain(
    request: EngineRequest, found: Collected, architecture: Architecture = "qwen3"
) -> None:
    """Tokens score what a plain forward pass says."""
    rows = plain_logprobs(request, found.tokens, architecture)[-len(found.tokens) :]
    expected = rows[np.arange(len(rows)), found.tokens]
    assert np.abs(expected - found.logprobs).max() <= TOLERANCE
    if request.params.temperature == 0:
        best = rows.max(1)
        assert (best - expected).max() <= TOLERANCE
