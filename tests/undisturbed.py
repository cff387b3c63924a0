"""What the engine without weights makes when nothing disturbs it, of thousands of sequences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sampler_server.engines.sim.tokens import generate, logprobs_of, prefix_states, seed_keys

__all__ = ["undisturbed"]


def undisturbed(
    prompts: Sequence[Sequence[int]], seeds: Sequence[int], weights: Sequence[int], length: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Tokens [B, T] and logprobs [B, T] of B sequences without an end, T being ``length``.

    As ``sim_sequence`` has them, which takes the time of many for each of them. ``weights`` are
    numbers of ``weights_state``.
    """
    flat = np.array([token for prompt in prompts for token in prompt], np.int32)
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    states = prefix_states(np.array(weights, np.uint64), flat, lengths)
    tokens, after, _ = generate(states, seed_keys(seeds), length)
    return tokens, logprobs_of(after)
