"""The engines of ``sampler serve``, made of its options; none has started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampler_api.errors import InvalidRequest, ModelInvalid

from .serve_options import ServeOptions, wrong_option

if TYPE_CHECKING:
    from sampler_core.checked_weights import BaseLayout
    from sampler_server.engines.base import Engine

__all__ = ["EngineParts", "sim_parts", "torch_parts", "vllm_parts"]


@dataclass(frozen=True, slots=True)
class EngineParts:
    """An engine that has not started; the tokenizer files of its model; shapes of its modules;
    what new weights must have too (``None``: they are not compared)."""

    engine: "Engine"
    tokenizer_files: Callable[[], Mapping[str, bytes]]
    shapes: Mapping[str, tuple[int, int]] | None
    layout: "BaseLayout | None"


def _limits(options: ServeOptions) -> dict[str, int]:
    """The limits that were given, by the names that the engines' settings share."""
    limits = {
        "slots": options.max_num_seqs,
        "kv_tokens": options.max_kv_tokens,
        "context_limit": options.max_model_len,
        "max_adapters": options.max_adapters,
        "max_lora_rank": options.max_lora_rank,
    }
    return {name: value for name, value in limits.items() if value is not None}


def sim_parts(options: ServeOptions) -> EngineParts:
    """The engine without weights. Raises InvalidRequest."""
    from sampler_server.engines.sim import SimEngine, SimSettings, tokenizer_files
    from sampler_server.engines.sim.latency import LatencyModel
    from sampler_server.engines.sim.settings import SimFaults

    try:
        limits: dict[str, Any] = _limits(options)
        settings = SimSettings(
            model=options.model,
            eos_rate=options.sim_eos_rate,
            latency=LatencyModel(
                options.sim_prefill_rate,
                options.sim_decode_rate,
                options.sim_per_sequence,
                options.sim_jitter,
                options.sim_slow,
            ),
            faults=SimFaults(
                options.sim_fail_rate, options.sim_fail_token, options.sim_stall_after
            ),
            ledger=options.sim_ledger,
            **limits,
        )
    except InvalidRequest as error:
        raise wrong_option(f"sim_{error.field}", error.message.partition(": ")[2]) from None
    return EngineParts(SimEngine(settings), tokenizer_files, None, None)


def torch_parts(options: ServeOptions) -> EngineParts:
    """The torch engine. Raises InvalidRequest, ModelInvalid, BaseMismatch."""
    directory = _directory(options.model)
    from sampler_core.bases import base_digest, linear_shapes, tokenizer_files
    from sampler_core.checked_weights import base_layout
    from sampler_server.engines.torch import TorchEngine, TorchOptions
    from sampler_server.identity import check_base

    digest = base_digest(directory)
    # Before minutes of loading; the server checks it again.
    check_base(digest, options.model_digest)
    limits: dict[str, Any] = _limits(options)
    torch_options = TorchOptions(
        directory,
        device=options.device,
        dtype=options.dtype,
        batch_invariant=options.batch_invariant,
        trust_remote_code=options.trust_remote_code,
        threads=options.threads,
        tensor_parallel_size=options.tensor_parallel_size or 1,
        base_digest=digest,
        name=options.model,
        **limits,
    )
    return EngineParts(
        TorchEngine(torch_options),
        lambda: tokenizer_files(directory),
        linear_shapes(directory),
        base_layout(directory),
    )


def vllm_parts(options: ServeOptions) -> EngineParts:
    """The vLLM engine. Raises as for torch, and ModuleNotFoundError without vLLM."""
    from sampler_server.engines.vllm import VllmEngine, VllmOptions
    from sampler_server.engines.vllm.versions import check_version, installed_version

    check_version(installed_version())
    directory = _directory(options.model)
    from sampler_core.bases import base_digest, linear_shapes, tokenizer_files
    from sampler_core.checked_weights import base_layout
    from sampler_server.identity import check_base

    digest = base_digest(directory)
    check_base(digest, options.model_digest)
    limits: dict[str, Any] = _limits(options)
    words = list(options.words)
    if options.tensor_parallel_size is not None:
        words += ["--tensor-parallel-size", str(options.tensor_parallel_size)]
    vllm_options = VllmOptions(
        directory,
        dtype=options.dtype,
        logprobs_mode=options.logprobs_mode,
        engines=1 + len(options.sibling or ()),
        trust_remote_code=options.trust_remote_code,
        base_digest=digest,
        name=options.model,
        words=words,
        **limits,
    )
    return EngineParts(
        VllmEngine(vllm_options),
        lambda: tokenizer_files(directory),
        linear_shapes(directory),
        base_layout(directory),
    )


def _directory(model: str) -> Path:
    """Where the files of a directory (``file://`` may precede it) or hub id (``hf://``) are.

    Raises InvalidRequest, ModelInvalid.
    """
    if not model:
        raise wrong_option("model", "names nothing")
    model = model.removeprefix("file://")
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) and not path.is_dir():
        raise wrong_option("model", f"there is no directory {model!r}")
    from sampler_server.local_sampler import model_directory

    try:
        directory = model_directory(path if path.is_dir() else model.removeprefix("hf://"))
    except (OSError, ValueError) as error:
        # The hub's client says the same thing on many lines.
        reason = str(error).partition("\n")[0]
        raise ModelInvalid(f"model {model!r} is not to be had: {reason}", "model") from error
    assert directory is not None
    return directory
