"""HTTP ports of this process: bound at once, listened on when there is something to say."""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from .refusals import RefusingProtocol
from .settings import ServeSettings

__all__ = ["ALL_INTERFACES", "Ports", "bind", "port_of"]

ALL_INTERFACES = "*"
_BACKLOG = 8192
_KEEP_ALIVE_SECONDS = 75


def bind(host: str, port: int) -> socket.socket:
    """A socket for ``host``, ``*`` for all interfaces: of both families where there is IPv6.

    Raises OSError that names the address.
    """
    try:
        if host == ALL_INTERFACES:
            return _bind_all(port)
        return _bind(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)
    except OSError as error:
        raise OSError(f"{host}:{port}: {error.strerror or error}") from None


def port_of(sock: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


def _bind_all(port: int) -> socket.socket:
    try:
        return _bind(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _bind(socket.AF_INET, "0.0.0.0", port)


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


class _Server(uvicorn.Server):
    """Leaves the signals to us, and says when it listens."""

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, context: ssl.SSLContext | None
    ) -> None:
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
                ssl_context_factory=None if context is None else lambda *_: context,
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


class Ports:
    """Opened one by one, closed together."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []

    async def listen(
        self, app: ASGIApp, sock: socket.socket, context: ssl.SSLContext | None = None
    ) -> None:
        """Serve ``app``, with TLS where there is a ``context``; returns when it listens."""
        server = _Server(app, self._settings, context)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        self._servers.append((server, task))
        listens = asyncio.create_task(server.listens.wait())
        await asyncio.wait([task, listens], return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if task.done():
            task.result()
            raise OSError("the server ended before it listened")

    async def close(self) -> None:
        """End all of them."""
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(*(task for _, task in self._servers))
