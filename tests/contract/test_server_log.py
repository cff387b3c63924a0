"""What a server writes to stderr: one line when it serves, and nothing about ordinary events."""

import asyncio
import socket
import struct

import pytest
from tests.servers import Server, TunedServer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from sampler_server.engines.sim import base_digest

_UPGRADE = (
    "GET /v1/session HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: {}\r\n\r\n"
)
_TIMES = 20


def leave(port: int, subprotocol: str, *, resets: bool) -> None:
    """Ask for a session and be gone before the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(_UPGRADE.format(subprotocol).encode())
        if resets:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def refused(url: str) -> int:
    with pytest.raises(InvalidStatus) as answer:
        await connect(url, subprotocols=[Subprotocol("other")])
    return answer.value.response.status_code


def test_a_server_that_serves_says_so_in_one_line() -> None:
    with Server("--model-name=policy") as server:
        lines = [line for line in server.log.splitlines() if "ready" in line]
        assert len(lines) == 1
        (line,) = lines
        assert f"ready: policy, base {base_digest()[:19]}," in line
        assert f"data port {server.data.number}, management port {server.manage.number}" in line


def test_clients_that_are_refused_or_leave_while_they_connect_are_no_error() -> None:
    with TunedServer() as server:
        for _ in range(_TIMES):
            assert asyncio.run(refused(server.session_url)) == 400
            for subprotocol in ("sampler.v1", "other"):
                for resets in (False, True):
                    leave(server.data.number, subprotocol, resets=resets)
        assert server.data.get("/v1/models")[0] == 200
    assert server.log == ""
