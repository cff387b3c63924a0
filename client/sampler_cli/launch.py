"""From the options of ``sampler serve`` to an engine and a server that runs it."""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sampler_api.errors import InvalidRequest, ModelInvalid, SamplerError
from sampler_core.termination import report_end

if TYPE_CHECKING:
    from sampler_server.engines.base import Engine
    from sampler_server.hub import Hub
    from sampler_server.settings import ServeSettings
    from sampler_server.supervisor import EnginePorts

__all__ = ["ServeOptions", "launch"]

log = logging.getLogger(__name__)

_USAGE = 2
_FAILED = 1
_LAST_PORT = 65535
_ADAPTER_SECONDS = 600.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LEVELS = ("debug", "info", "warning", "error")


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
    adapters_config: Path | None
    model_digest: str | None
    token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    device: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    trust_remote_code: bool
    batch_invariant: bool
    threads: int | None
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


@dataclass(frozen=True, slots=True)
class EngineParts:
    """An engine that has not started; the tokenizer files of its model; shapes of its modules."""

    engine: "Engine"
    tokenizer_files: Callable[[], Mapping[str, bytes]]
    shapes: Mapping[str, tuple[int, int]] | None


def launch(options: ServeOptions) -> int:
    """Serve until the end; the exit code: 2 for a wrong option. A failed start is one line on
    stderr and in the termination log."""
    try:
        settings = _settings(options)
        # Also where other processes will run them: a wrong option is told once, and at once.
        parts = _sim(options) if options.engine == "sim" else None
        is_one_host = (options.manage_host or options.host) == options.host
        if options.port == options.manage_port != 0 and is_one_host:
            # Both could be bound, and only one of them would ever listen.
            raise _wrong("manage_port", f"must be another port than --port {options.port}")
        if options.engines > 1:
            return _several(options, settings)
        return _one(options, settings, parts or _torch(options))
    except InvalidRequest as error:
        report_end(f"sampler serve: {error.message}")
        return _USAGE
    except SamplerError as error:
        report_end(f"{type(error).__name__}: {error.message}")
    except ModuleNotFoundError as error:
        extras = "server" if options.engine == "sim" else f"server,{options.engine}"
        report_end(
            f"sampler serve: {error.name} is not installed; pip install "
            f"'sampler-operator[{extras}]'"
        )
    except Exception as error:
        log.exception("the server failed")
        report_end(f"{type(error).__name__}: {error}")
    return _FAILED


def _one(options: ServeOptions, settings: "ServeSettings", parts: EngineParts) -> int:
    from sampler_server.adapters import AdapterStore
    from sampler_server.routes import openai, sample
    from sampler_server.scratch import ScratchFolder
    from sampler_server.serve import serve

    with ExitStack() as scratch:

        def store(hub: "Hub") -> AdapterStore:
            info = hub.engine.info
            return AdapterStore(
                store_dir=options.adapter_store or scratch.enter_context(ScratchFolder()).path,
                roots=settings.adapter_roots,
                engine=hub.engine,
                shapes=parts.shapes,
                max_adapters=info.max_adapters,
                max_rank=info.max_lora_rank,
                operation=lambda name: hub.operation(name, _ADAPTER_SECONDS),
            )

        return serve(
            settings,
            parts.engine,
            adapters=None if options.max_adapters == 0 else store,
            routers=[sample.router, openai.router],
            tokenizer_files=parts.tokenizer_files,
        )


def _several(options: ServeOptions, settings: "ServeSettings") -> int:
    from sampler_server.supervisor import LOOPBACK, engine_ports, supervise

    count = options.engines
    # The pod's management port, and those of its engines behind it.
    data, manage = range(options.port, options.port + count), options.manage_port
    for name, last in (("port", data[-1]), ("manage_port", manage + count)):
        if last > _LAST_PORT:
            raise _wrong(name, f"{count} engines from there on exceed port {_LAST_PORT}")
    if options.port and manage and manage <= data[-1] and options.port <= manage + count:
        raise _wrong(
            "manage_port", f"{manage} to {manage + count} overlap the data ports of the engines"
        )
    engines = engine_ports(options.engines, options.host, options.port, options.manage_port)
    arguments = sys.argv[1:]

    def command(ports: "EnginePorts") -> list[str]:
        # The last of a repeated option counts.
        own = ["--engines", "1", "--port", str(ports.port), "--manage-port", str(ports.manage_port)]
        own += ["--manage-host", LOOPBACK]
        if options.adapter_store is not None:
            # One process owns a store.
            store = options.adapter_store / f"engine-{engines.index(ports)}"
            store.mkdir(exist_ok=True)
            own += ["--adapter-store", str(store)]
        own += [word for sibling in ports.siblings for word in ("--sibling", str(sibling))]
        return [sys.executable, "-m", "sampler_cli.main", *arguments, *own, "--announce"]

    chooses = 0 in (options.port, options.manage_port)
    return supervise(engines, command, settings, announce=chooses or options.announce)


def _settings(options: ServeOptions) -> "ServeSettings":
    from sampler_server.auth import Access
    from sampler_server.identity import Identity
    from sampler_server.settings import ServeSettings, StreamSettings

    if options.log_level not in _LEVELS:
        raise _wrong("log_level", f"must be one of {', '.join(_LEVELS)}, not {options.log_level!r}")
    for root in options.adapter_root or ():
        if not root.is_dir():
            raise _wrong("adapter_root", f"there is no directory {str(root)!r}")
    if options.adapter_store is not None and not options.adapter_store.is_dir():
        raise _wrong("adapter_store", f"there is no directory {str(options.adapter_store)!r}")
    if options.model_digest is not None and not _DIGEST.fullmatch(options.model_digest):
        raise _wrong("model_digest", "must be sha256: and 64 hexadecimal digits")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise _wrong("tls_cert", "needs --tls-key beside it, and the other way round")
    Access.of_file(options.token_file)
    identity = Identity.of_environment(os.environ)
    if options.sibling:
        identity = identity.of_engine(options.port)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    return ServeSettings(
        host=options.host,
        port=options.port,
        manage_port=options.manage_port,
        manage_host=options.manage_host,
        model_name=options.model_name,
        adapter_roots=tuple(root.resolve() for root in options.adapter_root or ()),
        adapters_config=options.adapters_config,
        model_digest=options.model_digest,
        token_file=options.token_file,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        replica=identity.replica,
        fleet=identity.fleet,
        template_hash=identity.template_hash,
        siblings=tuple(options.sibling or ()),
        drain_seconds=options.drain_seconds,
        listen_seconds=options.listen_seconds,
        stall_seconds=options.stall_seconds,
        announce=options.announce,
        streams=StreamSettings(lease_seconds=options.orphan_seconds),
    )


def _wrong(option: str, text: str) -> InvalidRequest:
    return InvalidRequest(f"--{option.replace('_', '-')}: {text}", option)


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


def _sim(options: ServeOptions) -> EngineParts:
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
        raise _wrong(f"sim_{error.field}", error.message.partition(": ")[2]) from None
    return EngineParts(SimEngine(settings), tokenizer_files, None)


def _torch(options: ServeOptions) -> EngineParts:
    directory = _directory(options.model)
    from sampler_core.bases import base_digest, linear_shapes, tokenizer_files
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
        base_digest=digest,
        name=options.model,
        **limits,
    )
    return EngineParts(
        TorchEngine(torch_options),
        lambda: tokenizer_files(directory),
        linear_shapes(directory),
    )


def _directory(model: str) -> Path:
    """Where the files of a directory (``file://`` may precede it) or hub id (``hf://``) are.

    Raises InvalidRequest, ModelInvalid.
    """
    if not model:
        raise _wrong("model", "names nothing")
    model = model.removeprefix("file://")
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) and not path.is_dir():
        raise _wrong("model", f"there is no directory {model!r}")
    from sampler_server.samplers import model_directory

    try:
        directory = model_directory(path if path.is_dir() else model.removeprefix("hf://"))
    except (OSError, ValueError) as error:
        # The hub's client says the same thing on many lines.
        reason = str(error).partition("\n")[0]
        raise ModelInvalid(f"model {model!r} is not to be had: {reason}", "model") from error
    assert directory is not None
    return directory
