"""Clients whose session breaks, or begins, while the base of their replica is about to change."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.raw_bases import write_base
from tests.raw_session import RawSession, Received, opened
from tests.servers import Server
from tests.updatable import ask_for
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from sampler_api.codec import decode_server, encode_frame
from sampler_api.errors import Draining
from sampler_api.frames import LENGTH, ClientFrame, ClientHello, Join, ServerFrame
from sampler_core.bases import base_digest
from sampler_server.engines.sim import base_digest as sim_digest

LONG = 600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    rate = ("--sim-decode-rate", "200", "--sim-eos-rate", "0")
    with Server(*rate, "--adapter-root", str(tmp_path)) as server:
        yield server


class Update:
    """One that waits for what runs, in a thread; ``base`` is what is served then."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.base = ""
        self._asked = server, directory
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.base = ask_for(*self._asked)

    def wait(self) -> str:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.base


async def waited_for(session: RawSession, update: Any) -> tuple[Received, Update]:
    """A sequence that has begun, and the update that waits for it."""
    stream = await session.submit(0, max_tokens=LONG)
    await session.at_least(stream, 5)
    begun: Update = update()
    while not session.is_draining:
        await session.hear()
    return stream, begun


async def test_who_has_sequences_here_comes_back_for_them(server: Server, tmp_path: Path) -> None:
    new = write_base(tmp_path / "b", 1)
    async with opened(server.session_url, "raw") as session:
        stream, update = await waited_for(session, lambda: Update(server, new))
        held = len(stream.columns)
    async with opened(server.session_url, "raw") as again:
        assert again.hello.card.base == sim_digest()
        joined = again.received[3] = Received(0)
        await again.send(ClientFrame(joins=[Join(3, 0, 0, 0, held)]))
        assert (await again.ended(joined)).flag == LENGTH
        assert held + len(joined.tokens) == LONG
        assert again.is_draining
    assert update.wait() == base_digest(new)


async def test_who_has_none_stays_outside(server: Server, tmp_path: Path) -> None:
    """Also one that is half inside when the update begins: it would ask again and again."""
    new = write_base(tmp_path / "b", 1)
    async with (
        connect(server.session_url, subprotocols=[Subprotocol("sampler.v1")]) as half,
        opened(server.session_url, "raw") as session,
    ):
        stream, update = await waited_for(session, lambda: Update(server, new))
        await half.send(encode_frame(ClientHello("half")))
        told, _ = decode_server(await half.recv(decode=False))
        assert isinstance(told, ServerFrame)
        assert told.bye is not None
        assert told.bye.startswith(f"{Draining.code}: ")
        with pytest.raises(InvalidStatus) as refused:
            async with opened(server.session_url, "new"):
                pass
        assert refused.value.response.status_code == 503
        assert (await session.ended(stream)).flag == LENGTH
    assert update.wait() == base_digest(new)
