"""From options to a running ``AsyncLLM``; whatever goes wrong is one line."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from sampler_api.errors import InvalidRequest, ModelInvalid
from sampler_core.bases import linear_shapes

from ..base import EngineInfo
from .arguments import MAX_LOGPROBS, engine_args, lora_targets
from .cores import bound_cores, numa_nodes
from .environment import ERRORS_FILE, IN_FLOAT32, ON_CPU, vllm_environment
from .options import VllmOptions
from .processes import descendants
from .reasons import one_line, root_cause
from .steps import StepCounter, leave_out_requests

__all__ = ["Started", "eos_ids", "not_started", "start_engine"]

log = logging.getLogger(__name__)

_CONFIG_FILES: Final = ("generation_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class Started:
    """A running engine and what is known of it. ``processes``: those that it consists of."""

    engine: AsyncLLM
    info: EngineInfo
    shapes: Mapping[str, tuple[int, int]]
    adapter_slots: int
    is_cpu: bool
    processes: list[int]


async def start_engine(options: VllmOptions, scratch: Path, counter: StepCounter) -> Started:
    """Start vLLM's processes, on the loop that will use them.

    Raises InvalidRequest, ModelInvalid.
    """
    is_cpu = current_platform.is_cpu()
    shapes = linear_shapes(options.model)
    arguments = engine_args(options, lora_targets(shapes), is_cpu)
    before = set(descendants(os.getpid()))
    with vllm_environment(scratch, ON_CPU if is_cpu and arguments.enforce_eager else None):
        config = _config(arguments, options, is_cpu)
        is_float32 = config.model_config.dtype == torch.float32
        try:
            more = IN_FLOAT32 if is_float32 else {}
            if is_cpu:
                more = more | _cores(config.parallel_config.world_size, options.engines)
            with vllm_environment(scratch, more):
                engine = AsyncLLM.from_vllm_config(
                    config,
                    stat_loggers=[counter.logger],
                    enable_log_requests=False,
                    disable_log_stats=True,
                )
        except Exception as error:
            # What went wrong was in another process, and of any kind; its log has it.
            raise not_started(options, scratch, error) from error
    leave_out_requests(engine.output_processor)
    log.info("vLLM runs: %s", "on a CPU" if is_cpu else "on a GPU")
    blocks, block = config.cache_config.num_gpu_blocks or 0, config.cache_config.block_size
    counter.kv_tokens = blocks * block
    vocabulary = config.model_config.get_vocab_size()
    info = EngineInfo(
        engine="vllm",
        model=options.name or options.model.name,
        vocab_size=vocabulary,
        context_limit=config.model_config.max_model_len,
        slots=config.scheduler_config.max_num_seqs,
        kv_tokens=blocks * block,
        eos_ids=eos_ids(options.model),
        base_digest=options.base_digest,
        logprobs_modes=(options.logprobs_mode,),
        # Of more than there are, vLLM's worker dies.
        max_logprobs=min(MAX_LOGPROBS, vocabulary),
        max_adapters=options.max_adapters,
        max_lora_rank=options.max_lora_rank if options.max_adapters else 0,
        is_reproducible=False,
    )
    slots = config.lora_config.max_loras if config.lora_config is not None else 0
    # Python's resource tracker is one for the whole process.
    own = [pid for pid in descendants(os.getpid()) if pid not in before and _is_vllm(pid)]
    return Started(engine, info, shapes, slots, is_cpu, own)


def _cores(ranks: int, engines: int) -> dict[str, str]:
    cores = os.sched_getaffinity(0)
    return bound_cores(ranks, cores, numa_nodes(cores), os.environ, engines)


def eos_ids(directory: Path) -> tuple[int, ...]:
    """The ids that end a sequence, as the model's files say."""
    found: set[int] = set()
    for name in _CONFIG_FILES:
        path = directory / name
        config: Any = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        for part in (config, config.get("text_config") or {}):
            value = part.get("eos_token_id")
            if value is not None:
                found.update([value] if isinstance(value, int) else value)
    return tuple(sorted(found))


def _config(arguments: AsyncEngineArgs, options: VllmOptions, is_cpu: bool) -> Any:
    try:
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    except Exception as error:
        # pydantic's, transformers' and vLLM's own errors, of wrong values and of wrong models.
        raise ModelInvalid(f"{options.model}: {one_line(error)}", "engine_args") from error
    if config.lora_config is not None and not is_cpu and config.model_config.dtype == torch.float32:
        raise InvalidRequest(
            "dtype: on a GPU vLLM computes adapters in float16 or bfloat16, and dies of others; "
            "take one of these, or max_adapters=0",
            "dtype",
        )
    if options.kv_tokens is not None:
        cache = config.cache_config
        blocks = -(-options.kv_tokens // cache.block_size) + 1  # vLLM keeps one for itself
        cache.kv_cache_memory_bytes = blocks * cache.block_size * _bytes_per_token(config)
    return config


def _bytes_per_token(config: Any) -> int:
    """Memory of one token's keys and values in one worker."""
    model, parallel = config.model_config, config.parallel_config
    values = 2 * model.get_num_kv_heads(parallel) * model.get_head_size()
    return int(values * model.get_num_layers(parallel) * model.dtype.itemsize)


def not_started(options: VllmOptions, scratch: Path, error: Exception) -> ModelInvalid:
    """What an engine that did not get as far as its first tokens says, in one line."""
    path = scratch / ERRORS_FILE
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    reason = root_cause(text) or one_line(error)
    return ModelInvalid(f"{options.model}: vLLM does not start: {reason}", "model")


def _is_vllm(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    try:
        return b"resource_tracker" not in command.read_bytes()
    except OSError:
        return False
