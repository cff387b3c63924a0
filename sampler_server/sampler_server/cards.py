"""The card of a replica: what clients are told of engine, model and tokenizer."""

from sampler_api.frames import ModelCard

from .engines.base import EngineInfo
from .tokenizer import ServedTokenizer

__all__ = ["model_card"]


def model_card(
    info: EngineInfo,
    tokenizer: ServedTokenizer | None,
    model_name: str | None,
    has_adapters: bool,
) -> ModelCard:
    """What the engine announces, under the name that the operator of the server chose."""
    return ModelCard(
        model=model_name or info.model,
        engine=info.engine,
        base=info.base_digest,
        tokenizer=tokenizer.digest if tokenizer else None,
        vocab_size=info.vocab_size,
        context_limit=info.context_limit,
        eos_ids=info.eos_ids,
        logprobs_modes=info.logprobs_modes,
        max_logprobs=info.max_logprobs,
        max_adapters=info.max_adapters if has_adapters else 0,
        max_lora_rank=info.max_lora_rank,
        is_reproducible=info.is_reproducible,
    )
