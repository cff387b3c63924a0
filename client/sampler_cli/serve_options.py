"""The options of ``sampler serve``, and how one of them is said to be wrong."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from sampler_api.errors import InvalidRequest

__all__ = ["ServeOptions", "unknown_word", "wrong_option"]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of ``sampler serve`` by their names; ``None`` leaves it to the engine."""

    engine: str
    model: str
    model_name: str | None
    host: str
    port: int
    manage_port: int
    manage_host: str | None
    engines: int
    adapter_root: list[Path] | None
    adapter_store: Path | None
    adapter_store_bytes: int
    adapters_config: Path | None
    model_digest: str | None
    token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    device: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    logprobs_mode: Literal["processed", "raw"]
    trust_remote_code: bool
    batch_invariant: bool
    threads: int | None
    tensor_parallel_size: int | None
    max_num_seqs: int | None
    max_kv_tokens: int | None
    max_model_len: int | None
    max_adapters: int | None
    max_lora_rank: int | None
    drain_seconds: float
    listen_seconds: float
    orphan_seconds: float
    stall_seconds: float
    sim_prefill_rate: float
    sim_decode_rate: float
    sim_per_sequence: float
    sim_jitter: float
    sim_slow: float
    sim_eos_rate: float
    sim_ledger: Path | None
    sim_fail_rate: float
    sim_fail_token: int | None
    sim_stall_after: int | None
    log_level: str
    announce: bool
    sibling: list[int] | None
    words: list[str]
    """What is none of these options."""


def wrong_option(option: str, text: str) -> InvalidRequest:
    """A usage error that begins with the option's name."""
    return InvalidRequest(f"--{option.replace('_', '-')}: {text}", option)


def unknown_word(word: str) -> InvalidRequest:
    """A usage error for a word that is none of these options."""
    if not word.startswith("-"):
        return InvalidRequest(f"unexpected argument {word!r}")
    name = word.partition("=")[0]
    known = [f"--{field.name.replace('_', '-')}" for field in fields(ServeOptions)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return InvalidRequest(f"{name}: no such option{hint}", name)
