"""The command line of a pod's server."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from .. import names
from ..quantities import as_number
from ..spec import SamplerDeployment
from ..spec.engine import SimSpec, TorchSpec, VllmSpec
from ..spec.lora import LoraSpec

__all__ = ["fetch_arguments", "model_path", "serve_arguments"]

_STORE_SHARE: Final = Decimal("0.8")
"""Of the store's limit, for whole copies: a draft of the next one and the disk's blocks come on
top, and a pod that is over the limit is evicted."""


def _option(name: str, value: object) -> list[str]:
    """The words of an option; none for ``None`` and false, the name alone for true."""
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    return [name, str(value).removesuffix(".0") if isinstance(value, float) else str(value)]


def _options(pairs: Iterable[tuple[str, object]]) -> list[str]:
    return [word for name, value in pairs for word in _option(name, value)]


def model_path(sd: SamplerDeployment) -> str:
    """What ``sampler serve --model`` gets."""
    model = sd.spec.model
    if sd.spec.engine.kind == "sim":
        return model.location
    match model.scheme:
        case "hf":
            return f"{names.LINK_DIR}/model"
        case "pvc":
            _, _, path = model.location.partition("/")
            return f"{names.MODEL_DIR}/{path}".rstrip("/")
        case _:
            return model.location


def fetch_arguments(sd: SamplerDeployment) -> list[str]:
    """Arguments of the init container that downloads an ``hf://`` model."""
    return [
        "fetch",
        sd.spec.model.uri,
        *_options([("--revision", sd.spec.model.revision)]),
        *("--cache", names.CACHE_DIR),
        *("--link", f"{names.LINK_DIR}/model"),
    ]


def serve_arguments(sd: SamplerDeployment) -> list[str]:
    """Arguments of the server: ports and files first, then the engine's, then the user's own."""
    spec = sd.spec
    lora, engine = spec.lora, spec.engine
    tls, token = spec.tls, spec.auth
    roots = [volume.mount_path for volume in lora.volumes] if lora is not None else []
    return [
        "serve",
        *_options(
            [
                ("--engine", engine.kind),
                ("--model", model_path(sd)),
                ("--model-name", spec.model.served_name),
                ("--model-digest", spec.model.digest),
                ("--host", "*"),
                ("--port", names.data_ports(1)[0][1]),
                ("--manage-host", "*"),
                ("--manage-port", names.manage_port()),
                ("--engines", spec.engines_per_gpu if spec.engines_per_gpu > 1 else None),
                *(("--adapter-root", root) for root in roots),
                ("--adapter-store", names.STORE_DIR if lora is not None else None),
                ("--adapter-store-bytes", _store_bytes(lora) if lora is not None else None),
                ("--adapters-config", names.ADAPTERS_DIR),
                ("--max-adapters", lora.max_adapters if lora is not None else 0),
                ("--max-lora-rank", lora.max_rank if lora is not None else None),
                ("--token-file", f"{names.TOKEN_DIR}/tokens" if token is not None else None),
                ("--tls-cert", f"{names.TLS_DIR}/tls.crt" if tls is not None else None),
                ("--tls-key", f"{names.TLS_DIR}/tls.key" if tls is not None else None),
                ("--drain-seconds", spec.rollout.drain_seconds),
                ("--orphan-seconds", engine.orphan_seconds),
                ("--stall-seconds", engine.stall_seconds),
            ]
        ),
        *_engine_options(sd),
        *engine.settings.extra_args,
    ]


def _store_bytes(lora: LoraSpec) -> int:
    return max(1, int(as_number(lora.store_size_limit) * _STORE_SHARE))


def _engine_options(sd: SamplerDeployment) -> list[str]:
    settings = sd.spec.engine.settings
    common = [
        ("--max-model-len", settings.max_model_len),
        ("--max-num-seqs", settings.max_num_seqs),
    ]
    match settings:
        case VllmSpec():
            own = _vllm_options(sd, settings)
        case TorchSpec():
            own = _torch_options(sd, settings)
        case _:
            own = _sim_options(settings)
    return _options([*common, *own])


def _vllm_options(sd: SamplerDeployment, settings: VllmSpec) -> list[tuple[str, object]]:
    return [
        ("--dtype", settings.dtype),
        ("--tensor-parallel-size", sd.spec.tensor_parallel_size),
        ("--gpu-memory-utilization", settings.gpu_memory_utilization),
        ("--max-num-batched-tokens", settings.max_num_batched_tokens),
        ("--no-enable-prefix-caching", not settings.enable_prefix_caching),
        ("--quantization", settings.quantization),
        ("--logprobs-mode", sd.spec.engine.logprobs_mode),
        ("--trust-remote-code", sd.spec.model.trust_remote_code),
    ]


def _torch_options(sd: SamplerDeployment, settings: TorchSpec) -> list[tuple[str, object]]:
    parallel = sd.spec.tensor_parallel_size
    return [
        ("--dtype", settings.dtype),
        ("--tensor-parallel-size", parallel if parallel > 1 else None),
        ("--device", "cpu" if sd.spec.gpu_count == 0 else "cuda"),
        ("--max-kv-tokens", settings.max_kv_tokens),
        ("--threads", settings.threads),
        ("--batch-invariant", settings.batch_invariant),
        ("--trust-remote-code", sd.spec.model.trust_remote_code),
    ]


def _sim_options(settings: SimSpec) -> list[tuple[str, object]]:
    return [
        ("--max-kv-tokens", settings.max_kv_tokens),
        ("--sim-prefill-rate", settings.prefill_rate or None),
        ("--sim-decode-rate", settings.decode_rate or None),
        ("--sim-per-sequence", settings.per_sequence_seconds or None),
        ("--sim-jitter", settings.jitter or None),
        ("--sim-slow", settings.slow_factor if settings.slow_factor != 1 else None),
        ("--sim-eos-rate", settings.eos_rate or None),
    ]
