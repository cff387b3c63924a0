"""From a request to vLLM's ``SamplingParams``, and to the work of our logits processor."""

from typing import Any, Final

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from sampler_core.seeds import segment_seed

from ..base import EngineRequest
from .intervals import output_interval

__all__ = ["EDITS", "HAS_INTERVALS", "edits_of", "vllm_params"]

EDITS: Final = "sampler_edits"
"""Where in ``extra_args`` the logits processor finds its work."""

HAS_INTERVALS: Final = "stream_interval" in SamplingParams.__struct_fields__
"""This version takes an output interval with each request."""

# vLLM takes no other temperatures, and raises smaller ones to the first of these in silence.
_COLDEST, _HOTTEST = 0.01, 2.0
_SEED_BITS: Final = (1 << 63) - 1


def vllm_params(
    request: EngineRequest, eos_ids: tuple[int, ...], running: int
) -> tuple[SamplingParams, int]:
    """Params for what a request still has to make, and how many tokens that is (0: scores only).

    ``running`` is the number of sequences that the engine has.
    """
    params = request.params
    done = len(request.output_ids)
    left = max(0, request.max_total - done)
    stops = set(params.stop_token_ids or ()) | (set() if params.ignore_eos else set(eos_ids))
    temperature = params.temperature if left else 0.0
    values: dict[str, Any] = {
        "detokenize": False,
        "flat_logprobs": True,
        # vLLM knows no tokenizer here: the end of a sequence is one more stop id.
        "ignore_eos": True,
        "logit_bias": params.logit_bias,
        "max_tokens": max(1, left),
        "min_p": params.min_p,
        "min_tokens": min(max(0, params.min_tokens - done), left),
        "output_kind": RequestOutputKind.DELTA,
        "skip_clone": True,
        "stop_token_ids": sorted(stops),
        "temperature": temperature,
        "top_k": max(0, params.top_k),
        "top_p": params.top_p,
    }
    if params.seed is not None or request.seed is not None:
        # A generator restarted at its first draw would repeat the noise of the tokens so far.
        seed = request.seed
        values["seed"] = None if seed is None else segment_seed(seed, done) & _SEED_BITS
    if left and params.logprobs is not None:
        # 0 is the sampled token alone; k others beside it leave k - 1 when it is one of them.
        values["logprobs"] = 0 if params.logprobs <= 1 else params.logprobs
    if request.want_prompt_logprobs:
        values["prompt_logprobs"] = params.prompt_logprobs or 0
    edits = edits_of(request) if left else None
    if edits is not None:
        values["extra_args"] = {EDITS: edits}
        if "scale" in edits:
            values["temperature"] = 1.0
    else:
        values["frequency_penalty"] = params.frequency_penalty
        values["presence_penalty"] = params.presence_penalty
        values["repetition_penalty"] = params.repetition_penalty
    if HAS_INTERVALS:
        values["stream_interval"] = output_interval(
            running, bool(params.stop_texts), request.is_interactive
        )
    return SamplingParams(**values), left


def edits_of(request: EngineRequest) -> dict[str, Any] | None:
    """What vLLM's own processors would do wrong for this request, for ours; ``None``: nothing.

    It takes output of an earlier attempt for prompt, and wants texts for bad words.
    """
    params = request.params
    has_penalties = bool(
        params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
    )
    is_odd = params.temperature > 0 and not _COLDEST <= params.temperature <= _HOTTEST
    if not (request.bad_words or is_odd or (has_penalties and len(request.output_ids))):
        return None
    edits: dict[str, Any] = {"done": len(request.output_ids)}
    if request.bad_words:
        edits["bad_words"] = [list(word) for word in request.bad_words]
    if has_penalties:
        edits["penalties"] = [
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        ]
    if is_odd:
        edits["scale"] = 1 / params.temperature
    return edits
