"""The engine without weights: deterministic tokens and a latency model, for benches and fault
tests.
"""

from .engine import SimEngine
from .model import base_digest, tokenizer_files
from .settings import SimSettings

__all__ = ["SimEngine", "SimSettings", "base_digest", "tokenizer_files"]
