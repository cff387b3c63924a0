"""From our options, and arguments of vLLM's own, to its ``AsyncEngineArgs``.

Names are looked at by us, with the nearest one in the error; values by vLLM.
"""

import argparse
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NoReturn

from vllm import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from sampler_api.errors import InvalidRequest, ModelInvalid
from sampler_core.adapter_targets import OUTPUT_AND_EMBEDDINGS

from .cores import is_in_engine, numa_nodes
from .intervals import ENGINE_INTERVAL
from .options import VllmOptions
from .parameters import HAS_INTERVALS
from .reasons import one_line

__all__ = ["LORA_RANKS", "engine_args", "lora_rank", "lora_targets"]

LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its largest rank."""
MAX_LOGPROBS: Final = 1024
_CPU_KV_BYTES: Final = 512 << 20
# By its short name, "uni", vLLM starts a worker all the same.
_IN_ENGINE: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_ADAPTERS_PER_STEP: Final = 8

_OWNED: Final = {
    "data_parallel_size": "serve with --engines instead",
    "enable_lora": "max_adapters=0 turns adapters off",
    "generation_config": "sampling parameters come with each request",
    "logits_processors": "this engine has its own",
    "logprobs_mode": "use the option logprobs_mode",
    "lora_target_modules": "they follow from the model",
    "max_cpu_loras": "use max_adapters",
    "max_logprobs": "it follows from the vocabulary",
    "max_lora_rank": "use the option max_lora_rank",
    "model": "it is the sampler's first argument",
    "skip_tokenizer_init": "texts stay outside of the engine",
    "speculative_config": "drafts are not served in this version",
    "tokenizer": "texts stay outside of the engine",
    "worker_extension_cls": "this engine has its own",
}
"""Arguments that belong to this engine, and what to do instead."""


def engine_args(options: VllmOptions, targets: Sequence[str], is_cpu: bool) -> AsyncEngineArgs:
    """Arguments for ``AsyncLLM``; ``targets`` as of ``lora_targets``.

    Raises InvalidRequest for names, ModelInvalid for values that vLLM refuses at once.
    """
    known = [field.name for field in fields(AsyncEngineArgs)]
    given = {**_parsed(options.words, known), **options.engine_args}
    _check_names(given, known)
    if is_cpu and given.get("enable_chunked_prefill"):
        raise InvalidRequest(
            "engine_args: enable_chunked_prefill: on a CPU vLLM dies of a seeded prompt in pieces",
            "enable_chunked_prefill",
        )
    values = _defaults(options, is_cpu) | given
    if is_cpu and _is_in_engine(given):
        values.setdefault("distributed_executor_backend", _IN_ENGINE)
    if options.max_adapters:
        values |= _lora(options, targets, is_cpu, given.get("max_loras"))
    try:
        return AsyncEngineArgs(**{name: v for name, v in values.items() if name in known})
    except (ValueError, TypeError) as error:
        raise ModelInvalid(f"engine_args: {one_line(error)}", "engine_args") from error


def lora_rank(wanted: int) -> int:
    """The largest rank as vLLM takes it: rounded up. Raises InvalidRequest."""
    for rank in LORA_RANKS:
        if rank >= wanted:
            return rank
    raise InvalidRequest(
        f"max_lora_rank: vLLM takes at most {LORA_RANKS[-1]}, not {wanted}", "max_lora_rank"
    )


def lora_targets(modules: Iterable[str]) -> list[str]:
    """Names of the linear layers that adapters may change, but for the output layer.

    With that one wrapped, prompt logprobs of an adapter would end the engine.
    """
    return sorted({name.rpartition(".")[2] for name in modules} - OUTPUT_AND_EMBEDDINGS)


def _defaults(options: VllmOptions, is_cpu: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": str(options.model),
        "dtype": options.dtype,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "logits_processors": ["sampler_server.engines.vllm.edits:SequenceEdits"],
        "logprobs_mode": f"{options.logprobs_mode}_logprobs",
        "max_logprobs": MAX_LOGPROBS,
        # vLLM's own default is 0: two fresh replicas would draw the same.
        "seed": int.from_bytes(os.urandom(4), "little") >> 1,
        "skip_tokenizer_init": True,
        "trust_remote_code": options.trust_remote_code,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "sampler_server.engines.vllm.worker_weights.WorkerWeights",
    }
    if is_cpu:
        # Its own defaults take 20 GiB and compile for a minute.
        values |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_KV_BYTES}
        # Of a seeded sequence whose prompt comes in pieces its worker dies ("CPU Generator does not
        # use offset"); prompts are read whole, a step takes as many as it has room for.
        values["enable_chunked_prefill"] = False
        # Saved weights are often bfloat16, which few CPUs multiply faster than float32.
        if options.dtype == "auto":
            values["dtype"] = "float32"
    if not HAS_INTERVALS:
        values["stream_interval"] = ENGINE_INTERVAL
    if options.context_limit is not None:
        values["max_model_len"] = options.context_limit
    if options.slots is not None:
        values["max_num_seqs"] = options.slots
    return values


def _is_in_engine(given: Mapping[str, Any]) -> bool:
    is_one_rank = all(given.get(f"{kind}_parallel_size", 1) == 1 for kind in ("tensor", "pipeline"))
    nodes = numa_nodes(os.sched_getaffinity(0))
    return is_one_rank and is_in_engine(1, nodes, os.environ)


def _lora(
    options: VllmOptions, targets: Sequence[str], is_cpu: bool, per_step: int | None
) -> dict[str, Any]:
    held = options.max_adapters
    slots = min(held, per_step or _ADAPTERS_PER_STEP)
    # On a CPU one slot more has the zero adapter; see ``adapters``.
    slots += is_cpu
    return {
        "enable_lora": True,
        "lora_target_modules": list(targets),
        # vLLM reads again from disk what it has pushed out: it must not push out what we hold.
        "max_cpu_loras": max(held + 1, slots),
        "max_lora_rank": lora_rank(options.max_lora_rank),
        "max_loras": slots,
    }


def _check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name in _OWNED:
            raise InvalidRequest(f"engine_args: {name} is not yours to set: {_OWNED[name]}", name)
        if name not in known:
            raise _unknown(name, known)


def _unknown(name: str, known: Sequence[str]) -> InvalidRequest:
    near = difflib.get_close_matches(name, [n for n in known if n not in _OWNED], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidRequest(f"engine_args: vLLM has no argument {name!r}{hint}", name)


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"engine_args: {message}", "engine_args")


def _parsed(words: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """Values of a command line's words; those of the names that stand there."""
    if not words:
        return {}
    named = {_name(word, known) for word in words if word.startswith("--")}
    for name in sorted(named):
        if name not in known:
            raise _unknown(name, known)
    parser = AsyncEngineArgs.add_cli_args(_Parser(add_help=False))
    try:
        usual, found = parser.parse_args([]), parser.parse_args(list(words))
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise InvalidRequest(f"engine_args: {one_line(error)}", "engine_args") from error
    return {
        name: value
        for name, value in vars(found).items()
        if name in named or (name in known and value != getattr(usual, name, None))
    }


def _name(word: str, known: Sequence[str]) -> str:
    """The field of ``--some-name``, ``--no-some-name``, ``--some-name=1`` or ``--some-name.x``."""
    name = word.removeprefix("--").partition("=")[0].partition(".")[0].replace("-", "_")
    if name not in known and name.removeprefix("no_") in known:
        return name.removeprefix("no_")
    return name
