"""What a vLLM engine is made of.

Imports no vllm, so that a command line can build options before it pays for the import.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sampler_api.params import LogprobsMode

__all__ = ["VllmOptions"]


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Settings of one engine; ``None`` leaves a limit to vLLM.

    ``model`` is a directory. ``engine_args`` are fields of vLLM's ``AsyncEngineArgs``, and
    ``words`` the same as words of a command line (``--block-size 16``); both win over what we would
    choose, and neither may touch what belongs to this engine. ``slots`` is the number of sequences
    that run at once; ``kv_tokens`` bounds the memory of keys and values. ``max_adapters`` are held;
    of them vLLM's ``max_loras`` (by default all, up to 8) may share a step. ``engines`` like this
    one share the cores of a machine without a GPU.
    """

    model: Path
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    logprobs_mode: LogprobsMode = "processed"
    slots: int | None = None
    kv_tokens: int | None = None
    context_limit: int | None = None
    max_adapters: int = 16
    max_lora_rank: int = 64
    engines: int = 1
    trust_remote_code: bool = False
    base_digest: str = ""
    name: str = ""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()

    def settled(self) -> "VllmOptions":
        """With arguments of vLLM's that have a name here too in their place."""
        rest = dict(self.engine_args)
        found: dict[str, Any] = {}
        if "enable_lora" in rest and not rest.pop("enable_lora"):
            found["max_adapters"] = 0
        if "max_lora_rank" in rest:
            found["max_lora_rank"] = rest.pop("max_lora_rank")
        if str(rest.get("logprobs_mode", "")).endswith("_logprobs"):
            found["logprobs_mode"] = rest.pop("logprobs_mode").removesuffix("_logprobs")
        return replace(self, engine_args=rest, **found)
