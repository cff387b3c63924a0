"""Which engine generates, and its settings."""

from typing import Annotated, Literal

from pydantic import Field

from .base import Rule, SpecModel

__all__ = ["EngineSpec", "SimSpec", "TorchSpec", "VllmSpec"]

DType = Literal["auto", "float32", "bfloat16", "float16"]
Argument = Annotated[str, Field(max_length=1024)]


class _Common(SpecModel):
    max_model_len: int | None = Field(default=None, ge=2)
    """Context limit in tokens; by default the model's."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Sequences that one engine runs at once; by default the engine's choice."""
    extra_args: tuple[Argument, ...] = Field(default=(), max_length=64)
    """Further words of the command line, handed on as they are."""


class VllmSpec(_Common):
    """vLLM: for speed on GPUs."""

    dtype: DType = "auto"
    """Number format of the weights."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that all engines of a pod take together, each an equal part. If left
    out, one engine takes what vLLM takes by itself, and several take 0.9."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one engine step."""
    enable_prefix_caching: bool = True
    """Keep the cache of prompts that begin alike; it never mixes revisions."""
    quantization: str | None = Field(default=None, max_length=64)
    """Quantisation method, as vLLM names it."""


class TorchSpec(_Common):
    """transformers with continuous batching; CPU and GPU."""

    dtype: DType = "auto"
    """Number format of the weights."""
    max_kv_tokens: int | None = Field(default=None, ge=1)
    """Tokens of all running sequences together; by default from the memory that is free."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of an engine, of all its ranks together."""
    batch_invariant: bool = False
    """One sequence a step: slow, and equal bits whatever else runs."""


class SimSpec(_Common):
    """No weights: tokens from a hash, at a rate that is set here. For tests and rehearsals."""

    max_kv_tokens: int | None = Field(default=None, ge=1)
    """Tokens of all running sequences together."""
    prefill_rate: float = Field(default=0, ge=0)
    """Prompt tokens per second; 0 = at once."""
    decode_rate: float = Field(default=0, ge=0)
    """Tokens per second and sequence; 0 = at once."""
    per_sequence_seconds: float = Field(default=0, ge=0)
    """Seconds that each running sequence adds to a step."""
    jitter: float = Field(default=0, ge=0, lt=1)
    """Share by which the time of steps varies."""
    slow_factor: float = Field(default=1, gt=0)
    """Factor on the time of every step."""
    eos_rate: float = Field(default=0, ge=0, le=1)
    """Probability that a token is the end of its sequence."""


class EngineSpec(SpecModel):
    """Exactly one engine, and what all engines share."""

    vllm: VllmSpec | None = None
    """vLLM."""
    torch: TorchSpec | None = None
    """transformers on torch."""
    sim: SimSpec | None = None
    """The engine without weights. To rehearse a spec, change the engine alone: nothing is loaded or
    downloaded, and of ``tensorParallelSize`` only the devices are left, if ``gpu.count`` is given.
    """
    logprobs_mode: Literal["processed", "raw"] = "processed"
    """Logprobs that an engine with only one kind serves; torch and sim serve both."""
    stall_seconds: float = Field(default=10, ge=1)
    """An engine that makes no step for so long while requests run is dead, and starts again."""
    orphan_seconds: float = Field(default=30, ge=0)
    """Sequences of a client that is gone run on for so long, and then end."""

    rules = (
        Rule(
            cel="[has(self.vllm), has(self.torch), has(self.sim)].filter(x, x).size() == 1",
            message="exactly one of vllm, torch and sim must be given; {} takes all its defaults",
            holds=lambda engine: (
                sum(part is not None for part in (engine.vllm, engine.torch, engine.sim)) == 1
            ),
        ),
    )

    @property
    def kind(self) -> Literal["vllm", "torch", "sim"]:
        """The engine that is given."""
        if self.vllm is not None:
            return "vllm"
        return "torch" if self.torch is not None else "sim"

    @property
    def settings(self) -> VllmSpec | TorchSpec | SimSpec:
        """The settings of the engine that is given."""
        given = self.vllm or self.torch or self.sim
        assert given is not None
        return given
