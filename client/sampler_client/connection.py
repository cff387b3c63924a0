"""The socket to one endpoint: connect, read, write, and connect again for as long as the endpoint
is in the fleet.

When a session breaks, its streams are joined again on the same incarnation if that answers at once;
otherwise they move; sooner, if it had fallen silent. All decisions about streams are the
dispatcher's.

An endpoint that leaves the fleet gets nothing new, and is not connected to again. Its session stays
until the replica says bye or nothing runs there: a pod that is being replaced leaves discovery
first and hands its streams over then, and one that is not ready for a moment loses nothing.
"""

import asyncio
import logging
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from sampler_api.codec import decode_server, encode_frame
from sampler_api.errors import (
    ConnectTimeout,
    Draining,
    FleetError,
    Forbidden,
    NoReplica,
    ProtocolError,
    SamplerError,
    Unauthorized,
)
from sampler_api.frames import ClientHello, ServerHello
from sampler_api.names import PROTOCOL_VERSION, SESSION_PATH, SUBPROTOCOL
from sampler_core.groups import ChildWork

from .discovery import Endpoint
from .dispatcher import Dispatcher
from .replica import Replica
from .settings import ClientSettings
from .trust import tls_context

__all__ = ["Connection"]

log = logging.getLogger("sampler_client")

_FRAMES_OF_A_SESSION = 2
_SILENT_PART = 0.25


class FleetWatch(Protocol):
    """What a connection tells its fleet beyond its streams."""

    def welcomed(self, url: str, hello: ServerHello) -> None:
        """A replica has answered; raises FleetError when it belongs to another fleet."""
        ...

    def refused(self, url: str, error: SamplerError) -> None:
        """An endpoint cannot be reached or does not want us."""
        ...


class Connection:
    """Keeps one endpoint's session open until cancelled."""

    def __init__(
        self,
        endpoint: Endpoint,
        client: str,
        settings: ClientSettings,
        dispatcher: Dispatcher,
        fleet: FleetWatch,
        certificate_name: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.replica: Replica | None = None
        self._client = client
        self._settings = settings
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._certificate_name = certificate_name or None
        self._is_listed = True
        self._to_send = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._limbo: list[ChildWork] = []
        self._frames = 0
        self._is_silent = False

    def wake(self) -> None:
        """The replica's next frame has something in it."""
        self._to_send.set()

    def abort(self) -> None:
        """Drop the socket at once: nobody is at the other end."""
        self._is_silent = True
        if self._socket is not None:
            self._socket.transport.abort()

    def let_go(self) -> bool:
        """The endpoint has left the fleet. Whether nothing holds the connection any more."""
        self._is_listed = False
        replica = self.replica
        if replica is None or not replica.is_connected:
            return True
        replica.is_listed = False
        return not replica.children

    def keep(self) -> None:
        """The endpoint is in the fleet, maybe again."""
        self._is_listed = True
        if self.replica is not None and not self.replica.is_listed:
            self.replica.is_listed = True
            self._dispatcher.pump()

    async def run(self) -> None:
        """Connect, serve, and connect again; returns when the session of an endpoint that has left
        is over."""
        settings = self._settings
        delay = settings.reconnect_delay
        while True:
            try:
                async with asyncio.timeout(self._patience()):
                    socket, hello = await self._open()
            except (OSError, TimeoutError, WebSocketException, SamplerError) as error:
                self._move_limbo(is_dead=isinstance(error, ConnectionRefusedError))
                self._fleet.refused(self.endpoint.url, _typed(self.endpoint.url, error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, settings.reconnect_delay_max)
                continue
            try:
                await self._serve(socket, hello)
            except Exception:
                log.exception("%s: the session failed, reconnecting", self.endpoint.url)
            finally:
                socket.transport.abort()
                self._socket = None
            if not self._is_listed:
                self._move_limbo(is_dead=False)
                return
            if self._frames < _FRAMES_OF_A_SESSION:
                # It welcomes us and ends: not to be asked again at once, and ever again.
                await asyncio.sleep(delay)
                delay = min(delay * 2, settings.reconnect_delay_max)
            else:
                delay = settings.reconnect_delay

    def _patience(self) -> float:
        """Seconds that an attempt to connect may take. What fell silent has had its time, and its
        streams wait for the outcome."""
        part = _SILENT_PART if self._is_silent and self._limbo else 1.0
        return self._settings.connect_timeout * part

    async def _open(self) -> tuple[ClientConnection, ServerHello]:
        settings = self._settings
        headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else None
        socket = await connect(
            self.endpoint.session_url + SESSION_PATH,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            additional_headers=headers,
            open_timeout=None,
            # The server pings; our own silence after a pause must not end anything.
            ping_interval=None,
            close_timeout=1,
            max_size=settings.max_frame_bytes,
            max_queue=64,
            proxy=None,
            **self._tls(),
        )
        try:
            opening = ClientHello(self._client, weight=settings.weight, name=settings.name)
            await socket.send(encode_frame(opening))
            data = await socket.recv(decode=False)
            hello, _ = decode_server(data)
            if not isinstance(hello, ServerHello):
                raise _refusal(hello.bye)
            if hello.protocol != PROTOCOL_VERSION:
                raise ProtocolError(
                    f"{self.endpoint.url} speaks protocol {hello.protocol}, this client "
                    f"{PROTOCOL_VERSION}; install the client of the server's version"
                )
            if hello.max_frame_bytes > settings.max_frame_bytes:
                # Its first large frame would end the session, and so would every repetition.
                raise ProtocolError(
                    f"{self.endpoint.url} sends frames of up to {hello.max_frame_bytes} bytes, "
                    f"this client takes {settings.max_frame_bytes}; set max_frame_bytes= to the "
                    "server's"
                )
            self._fleet.welcomed(self.endpoint.url, hello)
        except BaseException:
            socket.transport.abort()
            raise
        return socket, hello

    def _tls(self) -> dict[str, Any]:
        if not self.endpoint.is_encrypted:
            return {}
        names = {"server_hostname": self._certificate_name} if self._certificate_name else {}
        return {"ssl": tls_context(self._settings.ca_file), **names}

    async def _serve(self, socket: ClientConnection, hello: ServerHello) -> None:
        before = self.replica
        is_same = before is not None and before.incarnation == hello.incarnation
        if before is not None and not is_same:
            self._move_limbo(is_dead=True)
        replica = before if is_same and before is not None else None
        if replica is None or replica.hello.card.base != hello.card.base:
            # With other weights it is another one to whatever waits, and the same to what it has.
            replica = self.replica = Replica(self.endpoint.url, hello)
        else:
            replica.hello = hello
            replica.grant = hello.grant
            replica.is_draining = False
        replica.seen = self._dispatcher.ticks
        self._socket = socket
        self._is_silent = False
        self._frames = 0
        lost, self._limbo = self._limbo, []
        self._to_send.clear()
        self._dispatcher.connected(replica, lost)
        self._to_send.set()
        writer = asyncio.create_task(self._write(socket, replica))
        try:
            async for data in socket:
                self._frames += 1
                self._dispatcher.frame(replica, data)  # type: ignore[arg-type]
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            log.warning("%s: %s; closing the session", self.endpoint.url, error)
        finally:
            self._limbo = self._dispatcher.disconnected(replica)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: ClientConnection, replica: Replica) -> None:
        demand = (0, 0)
        try:
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                now = self._dispatcher.demand()
                if replica.is_dirty or now != demand:
                    demand = now
                    await socket.send(replica.take_frame(demand))
        except ConnectionClosed:
            pass

    async def say_bye(self) -> None:
        """Tell the replica that this client needs nothing any more."""
        if self._socket is not None and self.replica is not None:
            try:
                await self._socket.send(self.replica.take_frame(bye=True))
                await self._socket.close()
            except (ConnectionClosed, OSError):
                pass

    def abandon(self) -> None:
        """The endpoint has left: whatever runs there goes on elsewhere."""
        if self.replica is not None and self.replica.is_connected:
            self._limbo += self._dispatcher.disconnected(self.replica)
        self._move_limbo(is_dead=False)

    def _move_limbo(self, *, is_dead: bool) -> None:
        lost, self._limbo = self._limbo, []
        replica = self.replica
        if replica is not None:
            self.replica = None
            self._dispatcher.move(replica, lost, is_dead)


def _refusal(text: str | None) -> SamplerError:
    code, _, message = (text or "").partition(": ")
    if code == Draining.code:
        return Draining(message)
    return FleetError(text or "the server closed the session without a reason")


def _typed(url: str, error: Exception) -> SamplerError:
    if isinstance(error, SamplerError):
        return error
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        text = error.response.body.decode(errors="replace")[:200] if error.response.body else ""
        if status == 401:
            return Unauthorized(
                f"{url}: the token is missing or wrong; token= (or SAMPLER_TOKEN) must be in the"
                " server's token file: on a cluster, the Secret of the fleet's spec.auth"
            )
        if status == 403:
            return Forbidden(
                f"{url}: refused (403); give its data port and a token that samples {text}".strip()
            )
        return NoReplica(f"{url}: HTTP {status} {text}".strip())
    if isinstance(error, TimeoutError):
        return ConnectTimeout(f"{url}: no answer in time")
    if isinstance(error, ConnectionRefusedError):
        return NoReplica(f"{url}: nobody listens there; check host and port, or start the server")
    return NoReplica(f"{url}: {error}")
