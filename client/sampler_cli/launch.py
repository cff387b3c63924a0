"""From the options of ``sampler serve`` to an engine and a server that runs it."""

import logging
import os
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sampler_api.errors import InvalidRequest, SamplerError
from sampler_core.termination import report_end

from .engine_parts import EngineParts, sim_parts, torch_parts, vllm_parts
from .memory_share import memory_share
from .serve_options import ServeOptions, unknown_word, wrong_option

if TYPE_CHECKING:
    from sampler_server.hub import Hub
    from sampler_server.settings import ServeSettings
    from sampler_server.supervisor import EnginePorts

__all__ = ["launch"]

log = logging.getLogger(__name__)

_USAGE = 2
_FAILED = 1
_LAST_PORT = 65535
_ADAPTER_SECONDS = 600.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LEVELS = ("debug", "info", "warning", "error")


def launch(options: ServeOptions) -> int:
    """Serve until the end; the exit code: 2 for a wrong option. A failed start is one line on
    stderr and in the termination log."""
    try:
        if options.words and options.engine != "vllm":
            raise unknown_word(options.words[0])
        settings = _settings(options)
        # Also where other processes will run them: a wrong option is told once, and at once.
        parts = sim_parts(options) if options.engine == "sim" else None
        is_one_host = (options.manage_host or options.host) == options.host
        if options.port == options.manage_port != 0 and is_one_host:
            # Both could be bound, and only one of them would ever listen.
            raise wrong_option("manage_port", f"must be another port than --port {options.port}")
        if options.engines > 1:
            if (options.tensor_parallel_size or 1) > 1:
                raise wrong_option(
                    "tensor_parallel_size", "several --engines share a device, so it must be 1"
                )
            return _several(options, settings)
        if parts is None:
            parts = vllm_parts(options) if options.engine == "vllm" else torch_parts(options)
        return _one(options, settings, parts)
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
                max_store_bytes=options.adapter_store_bytes,
            )

        return serve(
            settings,
            parts.engine,
            adapters=None if options.max_adapters == 0 else store,
            routers=[sample.router, openai.router],
            tokenizer_files=parts.tokenizer_files,
            layout=parts.layout,
        )


def _several(options: ServeOptions, settings: "ServeSettings") -> int:
    from sampler_server.supervisor import LOOPBACK, engine_ports, supervise

    count = options.engines
    # The pod's management port, and those of its engines behind it.
    data, manage = range(options.port, options.port + count), options.manage_port
    for name, last in (("port", data[-1]), ("manage_port", manage + count)):
        if last > _LAST_PORT:
            raise wrong_option(name, f"{count} engines from there on exceed port {_LAST_PORT}")
    if options.port and manage and manage <= data[-1] and options.port <= manage + count:
        raise wrong_option(
            "manage_port", f"{manage} to {manage + count} overlap the data ports of the engines"
        )
    engines = engine_ports(options.engines, options.host, options.port, options.manage_port)
    arguments = sys.argv[1:]
    store_bytes = max(1, options.adapter_store_bytes // count)

    def command(ports: "EnginePorts") -> list[str]:
        # The last of a repeated option counts.
        own = ["--engines", "1", "--port", str(ports.port), "--manage-port", str(ports.manage_port)]
        own += ["--manage-host", LOOPBACK, "--adapter-store-bytes", str(store_bytes)]
        if options.adapter_store is not None:
            # One process owns a store.
            store = options.adapter_store / f"engine-{engines.index(ports)}"
            store.mkdir(exist_ok=True)
            own += ["--adapter-store", str(store)]
        if options.engine == "vllm":
            own += memory_share(options.words, count)
        own += [word for sibling in ports.siblings for word in ("--sibling", str(sibling))]
        return [sys.executable, "-m", "sampler_cli.main", *arguments, *own, "--announce"]

    chooses = 0 in (options.port, options.manage_port)
    return supervise(
        engines,
        command,
        settings,
        announce=chooses or options.announce,
        # vLLM measures what it takes of a GPU, and would count what another one takes meanwhile.
        is_one_by_one=options.engine == "vllm",
    )


def _settings(options: ServeOptions) -> "ServeSettings":
    from sampler_server.auth import Access
    from sampler_server.identity import Identity
    from sampler_server.settings import ServeSettings, StreamSettings

    if options.log_level not in _LEVELS:
        raise wrong_option(
            "log_level", f"must be one of {', '.join(_LEVELS)}, not {options.log_level!r}"
        )
    for root in options.adapter_root or ():
        if not root.is_dir():
            raise wrong_option("adapter_root", f"there is no directory {str(root)!r}")
    if options.adapter_store is not None and not options.adapter_store.is_dir():
        raise wrong_option("adapter_store", f"there is no directory {str(options.adapter_store)!r}")
    if options.model_digest is not None and not _DIGEST.fullmatch(options.model_digest):
        raise wrong_option("model_digest", "must be sha256: and 64 hexadecimal digits")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise wrong_option("tls_cert", "needs --tls-key beside it, and the other way round")
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
