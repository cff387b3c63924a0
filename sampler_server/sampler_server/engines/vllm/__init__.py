"""vLLM's ``AsyncLLM`` behind our Engine Protocol: the only package that imports vllm.

Tokens go in and tokens come out; texts, stop strings and names stay outside. What vLLM does
otherwise than docs/semantics.md says is put right here, and nowhere else.
"""

from typing import TYPE_CHECKING, Any

from .options import VllmOptions

if TYPE_CHECKING:
    from .engine import VllmEngine

__all__ = ["VllmEngine", "VllmOptions"]


def __getattr__(name: str) -> Any:
    # vLLM takes ten seconds to import; options do not need it.
    if name == "VllmEngine":
        from .engine import VllmEngine

        return VllmEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
