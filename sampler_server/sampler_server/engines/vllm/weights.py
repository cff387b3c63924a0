"""New weights in vLLM's workers, in place: paused, read by vLLM's own loader, read back.

vLLM cannot go back: its loader copies layer by layer over what serves, and after a failure some
layers hold nothing. So files are checked before (``sampler_core.checked_weights``), and whoever
fails in here ends the engine.
"""

import asyncio
from typing import Any

from sampler_api.errors import EngineFailed, Unsupported

from ..base import Weights

__all__ = ["replace_weights"]


async def replace_weights(engine: Any, weights: Weights) -> None:
    """Put the weights of a checked directory in place, and drop all keys and values.

    Raises Unsupported and EngineFailed before anything is touched; after anything else nobody knows
    what the workers hold.
    """
    directory = str(weights.directory)
    try:
        comparable = min(await engine.collective_rpc("sampler_comparable", args=(directory,)))
    except Exception as error:
        # vLLM raises plain exceptions of every kind here.
        raise EngineFailed(f"{directory}: vLLM's workers cannot read it: {error}") from error
    if not comparable:
        raise Unsupported(
            f"{directory}: vLLM keeps none of these tensors under its own name, so that nobody "
            "could tell whether it has read them; start a new engine on them",
            "directory",
        )
    # Nothing runs: the mode says what would become of it.
    await engine.pause_generation(mode="abort", clear_cache=True)
    await engine.collective_rpc("sampler_reload", args=(directory,))
    await asyncio.to_thread(weights.check_unchanged)
    for differing in await engine.collective_rpc("sampler_differing", args=(directory,)):
        if differing:
            raise RuntimeError(
                f"{len(differing)} tensors were not read from {directory}: {differing[0]}"
            )
    if not await engine.reset_prefix_cache():
        raise RuntimeError("the prefix cache still holds keys and values of the old weights")
    await engine.resume_generation()
