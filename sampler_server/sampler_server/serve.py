"""A server process: engine in its thread, both ports in one loop, signals, start-up errors."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fastapi import APIRouter

from sampler_api.errors import BaseMismatch, SamplerError
from sampler_api.revisions import Revision
from sampler_core.base_files import tokenizer_files
from sampler_core.checked_weights import BaseLayout
from sampler_core.loops import new_event_loop
from sampler_core.termination import report_end

from .app import create_app
from .auth import Access
from .declaration import Declaration
from .drain import Drain, hand_over
from .engines.base import Engine
from .hub import Adapters, Hub
from .identity import check_base, wanted_problem
from .listening import ALL_INTERFACES, Ports, bind, port_of
from .routes.manage import create_manage_app
from .served_weights import ServedReaders
from .settings import ServeSettings
from .status import ManagedReplica
from .tls import Certificate
from .tokenizer import ServedTokenizer, served_tokenizer
from .watchdog import watch
from .websocket import Sessions
from .weights import WeightUpdates

__all__ = ["serve"]

log = logging.getLogger(__name__)

_EXIT_STALLED = 70
_TELL_SECONDS = 0.2


def serve(
    settings: ServeSettings,
    engine: Engine,
    *,
    adapters: Callable[[Hub], Adapters] | None = None,
    routers: Sequence[APIRouter] = (),
    tokenizer_files: Callable[[], Mapping[str, bytes]] | None = None,
    layout: BaseLayout | None = None,
) -> int:
    """Serve ``engine`` until a drain has finished (SIGTERM, SIGINT, POST /drain); the exit code.

    ``adapters`` makes the adapter store once the engine runs; ``routers`` are further routes of
    the data port; ``tokenizer_files`` are read while the engine loads, by default from
    ``settings.tokenizer_dir``; ``layout`` is what new base weights are compared with. A failed
    start is one line on stderr and in the termination log, and
    exit code 1.
    """
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            process = _Process(settings, engine, adapters, routers, tokenizer_files, layout)
            runner.run(process.run())
    except (SamplerError, OSError) as error:
        report_end(f"{type(error).__name__}: {error}", settings.termination_log)
        return 1
    return 0


class _Process:
    def __init__(
        self,
        settings: ServeSettings,
        engine: Engine,
        adapters: Callable[[Hub], Adapters] | None,
        routers: Sequence[APIRouter],
        tokenizer_files: Callable[[], Mapping[str, bytes]] | None,
        layout: BaseLayout | None,
    ) -> None:
        self._layout = layout
        self._read_files = tokenizer_files or self._files_of_settings
        self._settings = settings
        self._engine = engine
        self._adapters = adapters
        self._routers = routers
        self._is_live = True
        self._ports = Ports(settings)

    async def run(self) -> None:
        settings = self._settings
        access = Access.of_file(settings.token_file)
        certificate = _certificate(settings)
        data_socket = bind(settings.host, settings.port)
        manage_socket = bind(settings.manage_host or settings.host, settings.manage_port)
        port, manage_port = port_of(data_socket), port_of(manage_socket)
        host = socket.gethostname() if settings.host == ALL_INTERFACES else settings.host
        settings = replace(
            settings,
            port=port,
            manage_port=manage_port,
            replica=settings.replica or f"{host}:{port}",
        )
        hub = Hub(self._engine, settings=settings.streams)
        sessions = Sessions(hub, settings, access)
        drain = Drain(hub, sessions, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(
                number, drain.begin, signal.Signals(number).name
            )
        declaration = Declaration(settings.adapters_config, settings.template_hash)
        declaration.look()
        weights = WeightUpdates(
            hub,
            ServedReaders(hub, sessions, settings.hand_over_seconds),
            lambda: self._layout,
            settings.adapter_roots,
            lambda base: declaration.refusal(base) or wanted_problem(base, settings.model_digest),
        )
        managed = ManagedReplica(
            hub, sessions, declaration, settings.fleet, drain.begin, lambda: self._is_live, weights
        )
        await self._ports.listen(create_manage_app(managed, access), manage_socket)
        try:
            tokenizer = await self._start(hub, drain)
            if drain.finished.is_set():
                return
            if self._adapters is not None:
                hub.adapters = self._adapters(hub)
            base = hub.engine.info.base_digest
            check_base(base, settings.model_digest)
            declaration.begin(hub.adapters, base)
            hub.open(tokenizer, settings.model_name)
            app = create_app(
                hub,
                settings,
                access=access,
                sessions=sessions,
                routers=self._routers,
                declared=declaration.names,
                base_problem=declaration.base_problem,
            )

            async def expel() -> None:
                await hand_over(hub, sessions, settings.hand_over_seconds)
                await sessions.close(BaseMismatch(declaration.base_problem()))

            following = [asyncio.create_task(declaration.run(expel))]
            if certificate is not None:
                following.append(asyncio.create_task(certificate.follow()))
            context = None if certificate is None else certificate.context
            await self._ports.listen(app, data_socket, context)
            # What start-up made lives as long as the process: the collector need not look at it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            watchdog = asyncio.create_task(watch(hub, self._stalled, settings.stall_seconds))
            self._announce(hub, port, manage_port)
            await self._last_word(hub, drain, following)
            watchdog.cancel()
            for task in following:
                task.cancel()
        finally:
            await self._ports.close()
            if hub.is_open:
                await hub.close()
            await asyncio.to_thread(self._engine.close)

    async def _start(self, hub: Hub, drain: Drain) -> ServedTokenizer | None:
        """Engine and tokenizer at the same time. A drain meanwhile ends the wait."""
        start = asyncio.ensure_future(asyncio.to_thread(self._engine.start, hub.sink))
        left = asyncio.ensure_future(drain.finished.wait())
        tokenizer = await asyncio.to_thread(lambda: served_tokenizer(self._read_files()))
        await asyncio.wait([start, left], return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if start.done():
            start.result()
        return tokenizer

    async def _last_word(self, hub: Hub, drain: Drain, following: list[asyncio.Task[None]]) -> None:
        """Wait for the end of a drain. Raises EngineDead, once the clients have been told, and
        what ``following`` raises."""
        ends = [asyncio.create_task(e.wait()) for e in (drain.finished, hub.broken)]
        await asyncio.wait([*ends, *following], return_when=asyncio.FIRST_COMPLETED)
        for task in following:
            if task.done():
                task.result()
        for end in ends:
            end.cancel()
        if hub.engine_error is not None and not drain.finished.is_set():
            self._is_live = False
            hub.is_draining = hub.is_refusing = True
            await asyncio.sleep(_TELL_SECONDS)
            raise hub.engine_error

    def _files_of_settings(self) -> Mapping[str, bytes]:
        directory = self._settings.tokenizer_dir
        return {} if directory is None else tokenizer_files(directory)

    def _announce(self, hub: Hub, port: int, manage_port: int) -> None:
        log.info(
            "ready: %s, base %s, data port %d, management port %d",
            hub.card.model,
            Revision(hub.card.base),
            port,
            manage_port,
        )
        chosen = 0 in (self._settings.port, self._settings.manage_port)
        if chosen or self._settings.announce:
            line = {"port": port, "manage_port": manage_port, "pid": os.getpid()}
            print(json.dumps(line), flush=True)

    def _stalled(self, line: str) -> None:
        self._is_live = False
        log.error("%s", line)
        report_end(line, self._settings.termination_log)
        self._engine.abandon()
        # The engine's thread hangs, so nothing that waits for it may be asked to end.
        os._exit(_EXIT_STALLED)


def _certificate(settings: ServeSettings) -> Certificate | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)
