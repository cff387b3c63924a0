"""uvicorn's WebSocket protocol, for which a refused session is no failure of the application."""

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

__all__ = ["RefusingProtocol"]


class RefusingProtocol(WebSocketsSansIOProtocol):
    """Knows that an HTTP answer ends the handshake: uvicorn counts it as none at all, and logs an
    error for every session that is refused."""

    async def send(self, message: "ASGISendEvent") -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True
