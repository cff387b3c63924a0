"""A server process: engine in its thread, both ports in one loop, signals, start-up errors."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp

from sampler_api.errors import BaseMismatch, SamplerError
from sampler_api.names import ENV_TERMINATION_LOG
from sampler_api.revisions import Revision
from sampler_core.base_files import tokenizer_files

from .app import create_app
from .auth import Access
from .declaration import Declaration
from .drain import Drain, hand_over
from .engines.base import Engine
from .hub import Adapters, Hub
from .identity import check_base
from .metrics import HubCollector, exposition
from .refusals import RefusingProtocol
from .routes.manage import create_manage_app
from .settings import ServeSettings
from .status import replica_status
from .tokenizer import ServedTokenizer, served_tokenizer
from .watchdog import watch
from .websocket import Sessions

__all__ = ["report_end", "serve"]

log = logging.getLogger(__name__)

_BACKLOG = 8192
_KEEP_ALIVE_SECONDS = 75
_EXIT_STALLED = 70
_TELL_SECONDS = 0.2
_DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


def serve(
    settings: ServeSettings,
    engine: Engine,
    *,
    adapters: Callable[[Hub], Adapters] | None = None,
    routers: Sequence[APIRouter] = (),
    tokenizer_files: Callable[[], Mapping[str, bytes]] | None = None,
) -> int:
    """Serve ``engine`` until a drain has finished (SIGTERM, SIGINT, POST /drain); the exit code.

    ``adapters`` makes the adapter store once the engine runs; ``routers`` are further routes of
    the data port; ``tokenizer_files`` are read while the engine loads, by default from
    ``settings.tokenizer_dir``. A failed start is one line on stderr and in the termination log, and
    exit code 1.
    """
    try:
        with _runner() as runner:
            runner.run(_Process(settings, engine, adapters, routers, tokenizer_files).run())
    except (SamplerError, OSError) as error:
        report_end(settings, f"{type(error).__name__}: {error}")
        return 1
    return 0


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def report_end(settings: ServeSettings, line: str) -> None:
    """Why the process ends: one line on stderr, and where Kubernetes looks for it."""
    line = " ".join(line.split())
    print(line, file=sys.stderr, flush=True)
    path = settings.termination_log
    if path is None:
        path = Path(os.environ.get(ENV_TERMINATION_LOG) or _DEFAULT_TERMINATION_LOG)
        if path == _DEFAULT_TERMINATION_LOG and not path.exists():
            return
    with contextlib.suppress(OSError):
        path.write_text(line + "\n")


class _Server(uvicorn.Server):
    """Leaves the signals to us, and says when it listens."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws=RefusingProtocol,
                ws_max_size=settings.max_frame_bytes,
                ws_per_message_deflate=False,
                ws_ping_interval=settings.ping_seconds,
                ws_ping_timeout=settings.ping_timeout_seconds,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process has its own handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.listens.set()


class _Process:
    def __init__(
        self,
        settings: ServeSettings,
        engine: Engine,
        adapters: Callable[[Hub], Adapters] | None,
        routers: Sequence[APIRouter],
        tokenizer_files: Callable[[], Mapping[str, bytes]] | None,
    ) -> None:
        self._read_files = tokenizer_files or self._files_of_settings
        self._settings = settings
        self._engine = engine
        self._adapters = adapters
        self._routers = routers
        self._is_live = True
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []

    async def run(self) -> None:
        settings = self._settings
        access = Access.of_file(settings.token_file)
        data_socket = _bind(settings.host, settings.port)
        manage_socket = _bind(settings.manage_host or settings.host, settings.manage_port)
        port, manage_port = data_socket.getsockname()[1], manage_socket.getsockname()[1]
        settings = replace(
            settings,
            port=port,
            manage_port=manage_port,
            replica=settings.replica or f"{settings.host}:{port}",
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
        collector = HubCollector(hub, sessions)
        manage = create_manage_app(
            access,
            status=lambda: replica_status(hub, sessions, declaration, settings.fleet),
            metrics=lambda: exposition(collector),
            drain=drain.begin,
            is_live=lambda: self._is_live,
        )
        await self._listen(manage, manage_socket, settings)
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

            following = asyncio.create_task(declaration.run(expel))
            await self._listen(app, data_socket, settings)
            # What start-up made lives as long as the process: the collector need not look at it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            watchdog = asyncio.create_task(watch(hub, self._stalled, settings.stall_seconds))
            self._announce(hub, port, manage_port)
            await self._last_word(hub, drain, following)
            watchdog.cancel()
            following.cancel()
        finally:
            await self._stop()
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

    async def _last_word(self, hub: Hub, drain: Drain, following: asyncio.Task[None]) -> None:
        """Wait for the end of a drain. Raises EngineDead, once the clients have been told, and
        what ``following`` raises."""
        ends = [asyncio.create_task(e.wait()) for e in (drain.finished, hub.broken)]
        await asyncio.wait([*ends, following], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        for end in ends:
            end.cancel()
        if hub.engine_error is not None and not drain.finished.is_set():
            self._is_live = False
            hub.is_draining = True
            await asyncio.sleep(_TELL_SECONDS)
            raise hub.engine_error

    def _files_of_settings(self) -> Mapping[str, bytes]:
        directory = self._settings.tokenizer_dir
        return {} if directory is None else tokenizer_files(directory)

    async def _listen(self, app: ASGIApp, sock: socket.socket, settings: ServeSettings) -> None:
        server = _Server(app, settings)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        self._servers.append((server, task))
        listens = asyncio.create_task(server.listens.wait())
        await asyncio.wait([task, listens], return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if task.done():
            task.result()
            raise OSError("the server ended before it listened")

    async def _stop(self) -> None:
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(*(task for _, task in self._servers))

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
        report_end(self._settings, line)
        # The engine's thread hangs, so nothing that waits for it may be asked to end.
        os._exit(_EXIT_STALLED)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(f"{host}:{port}: {error.strerror}") from None
    return sock
