"""Continuous batching on transformers models: one packed step for all sequences that run."""

import os
import sys
from typing import TYPE_CHECKING, Any

from .options import TorchOptions

if TYPE_CHECKING:
    from .engine import TorchEngine

# A step enters a few hundred parallel regions. GNU OpenMP's threads spin for about a millisecond at
# the end of each, so that a second busy process on the same cores makes steps ten times slower. It
# reads this once, when torch loads it.
if "torch" not in sys.modules:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

__all__ = ["TorchEngine", "TorchOptions"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; options do not need it.
    if name == "TorchEngine":
        from .engine import TorchEngine

        return TorchEngine
    raise AttributeError(name)
