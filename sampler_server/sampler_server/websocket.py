"""The session endpoint: a WebSocket's bytes in and out of a :class:`~.session.Session`.

One reader and one writer a connection. The writer waits for the socket, so a client that reads
slowly delays its own frames: the engine and the other sessions go on, and what piles up are the
columns of its streams, which are kept anyway.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Iterator

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from sampler_api.codec import decode_client, encode_frame
from sampler_api.errors import Busy, Draining, ProtocolError, SamplerError
from sampler_api.frames import ClientFrame, ClientHello, ServerFrame, ServerHello
from sampler_api.names import PROTOCOL_VERSION, SUBPROTOCOL

from .auth import Access
from .credits import Credits
from .errors import error_response
from .hub import Hub
from .session import Session
from .settings import ServeSettings

__all__ = ["Sessions"]

log = logging.getLogger(__name__)

_HELLO_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_CLOSE_PROTOCOL_ERROR = 1002
_CLOSE_INTERNAL = 1011
_CLOSE_LEAVING = 1012
_MAX_REASON_BYTES = 120
_MAX_NAME = 256


class Sessions:
    """All sessions of this process."""

    def __init__(self, hub: Hub, settings: ServeSettings, access: Access) -> None:
        self.hub = hub
        self.credits = Credits(hub)
        self.incarnation = uuid.uuid4().hex
        self.replica = settings.replica
        self.siblings = settings.siblings
        self.succeeds: tuple[str, ...] = ()
        """Bases that were replaced by the present one, whose sequences are to go on under it."""
        self._settings = settings
        self._access = access
        self._open: dict[Session, WebSocket] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open))

    def __len__(self) -> int:
        return len(self._open)

    # -- one connection ----------------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """The endpoint: refuses with an HTTP answer, and ends a broken session with a reason."""
        try:
            self._check(socket)
        except SamplerError as error:
            await socket.send_denial_response(error_response(error))
            return
        await socket.accept(subprotocol=SUBPROTOCOL)
        try:
            hello = await self._hello(socket)
            if hello is not None:
                changing = self.hub.change.session_problem()
                if changing is not None and not self.hub.table.is_known(hello.client):
                    await self._goodbye(socket, changing, _CLOSE_LEAVING)
                    return
                await self._talk(socket, hello)
                with contextlib.suppress(RuntimeError):
                    await socket.close()
        except ProtocolError as error:
            log.info("session closed: %s", error)
            await self._goodbye(socket, error, _CLOSE_PROTOCOL_ERROR)
        except WebSocketDisconnect:
            pass
        except Exception:
            log.exception("a session failed")
            failure = SamplerError("the server failed on this session; its log says why")
            await self._goodbye(socket, failure, _CLOSE_INTERNAL)

    def _check(self, socket: WebSocket) -> None:
        self._access.check(socket.headers, "sample")
        if SUBPROTOCOL not in socket.scope.get("subprotocols", ()):
            raise ProtocolError(f"sessions speak the WebSocket subprotocol {SUBPROTOCOL}")
        if self.hub.is_draining:
            raise Draining("the replica is draining; connect to another one")
        changing = self.hub.change.session_problem()
        # Whoever lost its session may come back for what it has here; its hello says who it is.
        if changing is not None and not self.hub.table.has_clients:
            raise changing
        if len(self._open) >= self._settings.max_sessions:
            raise Busy(f"{len(self._open)} sessions are open, which is the limit")

    async def _hello(self, socket: WebSocket) -> ClientHello | None:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                data = await _receive(socket)
        except TimeoutError:
            raise ProtocolError(f"no hello within {_HELLO_SECONDS:g} seconds") from None
        if data is None:
            return None
        hello, _ = decode_client(data)
        if not isinstance(hello, ClientHello):
            raise ProtocolError("the first frame must be a hello")
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"protocol: this replica speaks version {PROTOCOL_VERSION}, not {hello.protocol}; "
                "use a client of the same release"
            )
        if not 0 < len(hello.client) <= _MAX_NAME or len(hello.name) > _MAX_NAME:
            raise ProtocolError(f"client: must have 1 to {_MAX_NAME} characters")
        return hello

    async def _talk(self, socket: WebSocket, hello: ClientHello) -> None:
        settings = self._settings
        session = Session(self.hub, self.credits, hello, settings.flush, settings.max_frame_bytes)
        self.credits.join(session)
        self._open[session] = socket
        writer: asyncio.Task[None] | None = None
        try:
            welcome = ServerHello(
                replica=self.replica,
                incarnation=self.incarnation,
                card=self.hub.card,
                grant=session.grant,
                fleet=settings.fleet,
                siblings=self.siblings,
                max_frame_bytes=settings.max_frame_bytes,
                succeeds=self.succeeds,
            )
            if self.hub.is_draining or self.hub.change.is_pending:
                session.turn_away()
            await socket.send_bytes(encode_frame(welcome))
            writer = asyncio.create_task(self._write(socket, session))
            while not session.is_leaving:
                data = await _receive(socket)
                if data is None:
                    break
                header, columns = decode_client(data)
                if not isinstance(header, ClientFrame):
                    raise ProtocolError("a second hello")
                session.receive(header, columns)
        finally:
            del self._open[session]
            self.credits.leave(session)
            session.lost()
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])

    async def _write(self, socket: WebSocket, session: Session) -> None:
        loop = asyncio.get_running_loop()
        clock = self.hub.clock
        wake, outbox = session.wake, session.outbox
        try:
            while True:
                wake.clear()
                delay = outbox.due_at() - clock()
                if delay > 0:
                    timer = loop.call_later(delay, wake.set)
                    await wake.wait()
                    timer.cancel()
                    continue
                await socket.send_bytes(outbox.build(clock()))
        except WebSocketDisconnect:
            return
        except Exception:
            if socket.application_state is not WebSocketState.CONNECTED:
                return
            log.exception("a session could not be written")
            # The reader ends with the socket, and the session with the reader.
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(_CLOSE_INTERNAL)

    async def _goodbye(self, socket: WebSocket, error: SamplerError, code: int) -> None:
        text = f"{error.code}: {error.message}"
        reason = text.encode()[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
        # A client that does not read does not hear it either.
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await socket.send_bytes(encode_frame(ServerFrame(bye=text)))
                await socket.close(code, reason)

    # -- leaving -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Hand every running sequence over; ``is_flushed`` tells when all of it has been sent."""
        for session in self:
            session.drain()

    @property
    def is_flushed(self) -> bool:
        """No session has anything to say but heartbeats."""
        return all(session.outbox.is_empty for session in self._open)

    async def close(self, error: SamplerError | None = None) -> None:
        """End the connections that are still open, and tell them why."""
        error = error or Draining("the replica has left; continue elsewhere")
        await asyncio.gather(
            *(self._goodbye(s, error, _CLOSE_LEAVING) for s in list(self._open.values()))
        )


async def _receive(socket: WebSocket) -> bytes | None:
    """The next binary message; ``None`` when the connection has ended. Raises ProtocolError."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    data: bytes | None = message.get("bytes")
    if data is None:
        raise ProtocolError("frames are binary messages")
    return data
