"""Requests and models that this engine cannot serve, found before they cost a step."""

import itertools

import numpy as np
import torch

from sampler_api.errors import (
    AdapterMissing,
    InvalidRequest,
    ModelInvalid,
    PayloadTooLarge,
    SamplerError,
)

from ..base import EngineRequest
from .attention import UnsupportedAttention
from .layout import Chunk, arrange
from .memory import KVMemory
from .model import ServedModel

__all__ = ["fault_of", "prove_attention"]

MAX_LOGPROBS = 1024

# Logprobs of one model in two orders of summation differ by rounding; a wrong mask differs by more
# than any of these.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.25, torch.bfloat16: 1.0}
_PROOF_TOKENS = 24
_PROOF_SPLIT = 16


def fault_of(
    request: EngineRequest, vocabulary: int, context: int, adapter: int | None
) -> SamplerError | None:
    """Why a request cannot be served, or ``None``."""
    params = request.params
    if adapter is None:
        return AdapterMissing(f"adapter {request.adapter} is not loaded", "adapter")
    size = len(request.prompt_ids)
    if not size:
        return InvalidRequest("prompt_ids: the prompt is empty", "prompt_ids")
    limit = context if request.max_total <= 0 else context - 1
    if size > limit:
        return InvalidRequest(
            f"prompt_ids: {size} tokens; the model takes {context}, outputs included", "prompt_ids"
        )
    if size + len(request.output_ids) > context:
        return InvalidRequest(
            f"output_ids: prompt and output are {size + len(request.output_ids)} tokens;"
            f" the model takes {context}",
            "output_ids",
        )
    for name in ("prompt_ids", "output_ids"):
        ids = getattr(request, name)
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            wrong = int(ids[(ids < 0) | (ids >= vocabulary)][0])
            return InvalidRequest(f"{name}: {wrong} is no token id of this model", name)
    named = {
        "stop_token_ids": params.stop_token_ids or (),
        "logit_bias": params.logit_bias or (),
        "bad_words": [token for word in request.bad_words for token in word],
    }
    for name, tokens in named.items():
        wrong_ids = [token for token in tokens if not 0 <= token < vocabulary]
        if wrong_ids:
            return InvalidRequest(f"{name}: {wrong_ids[0]} is no token id of this model", name)
    if not all(request.bad_words):
        return InvalidRequest("bad_words: a word has no tokens", "bad_words")
    for name in ("logprobs", "prompt_logprobs"):
        if (getattr(params, name) or 0) > MAX_LOGPROBS:
            return PayloadTooLarge(f"{name}: at most {MAX_LOGPROBS}", name)
    return None


def prove_attention(model: ServedModel, memory: KVMemory) -> None:
    """Take the model over and compare it with its own forward pass; raises ModelInvalid.

    Also the warm-up: a chunk, another chunk behind it, and single tokens.
    """
    count = min(_PROOF_TOKENS, model.context_limit, memory.row_limit)
    ids = np.random.default_rng(0).integers(0, model.vocabulary, count).astype(np.int32)
    expected = model.plain_logprobs(ids.tolist())
    model.take_over()
    row = memory.place(count)
    assert row is not None
    found = []
    borders = sorted({0, count // 3, min(_PROOF_SPLIT, count), *range(_PROOF_SPLIT, count + 1)})
    borders = [border for border in borders if border <= count]
    try:
        with torch.inference_mode():
            for start, end in itertools.pairwise(borders):
                layout = arrange(
                    [Chunk(row, start, ids[start:end])], model.shape.heads, model.device
                )
                logits = model.forward(layout, range(end - start))
                found.append(logits.float().log_softmax(-1))
    except (UnsupportedAttention, AttributeError, TypeError, RuntimeError, IndexError) as error:
        raise ModelInvalid(
            f"{type(model.model).__name__} cannot run in packed steps: {error}"
        ) from error
    finally:
        memory.free(row)
    worst = float((torch.cat(found) - expected).abs().max())
    if not worst <= _TOLERANCE.get(model.shape.dtype, 1.0):
        raise ModelInvalid(
            f"{type(model.model).__name__} gives other logprobs in this engine than alone"
            f" (they differ by {worst:.3g}): its attention is of a kind that it does not have"
        )
