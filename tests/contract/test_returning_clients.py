"""Clients whose session breaks, or begins, while the base of their replica is about to change, or
while it drains."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.proxy import FaultProxy, wait_until
from tests.raw_bases import write_base
from tests.raw_session import RawSession, Received, opened
from tests.servers import Server
from tests.updatable import ask_for
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from sampler_api.codec import decode_server, encode_frame
from sampler_api.errors import Draining
from sampler_api.frames import LENGTH, ClientFrame, ClientHello, Join, ServerFrame, ServerHello
from sampler_client import RemoteSampler
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
        connected(server) as half,
        opened(server.session_url, "raw") as session,
    ):
        stream, update = await waited_for(session, lambda: Update(server, new))
        for socket, name in ((half, "half"), (None, "new")):
            assert (await said_to(server, name, socket)).startswith(f"{Draining.code}: ")
        assert (await session.ended(stream)).flag == LENGTH
        await session.ack(0)
    assert update.wait() == base_digest(new)


async def said_to(server: Server, name: str, socket: ClientConnection | None) -> str:
    """The bye of somebody who says hello, on a socket of its own or a new one."""
    socket = socket or await connected(server)
    await socket.send(encode_frame(ClientHello(name)))
    told, _ = decode_server(await socket.recv(decode=False))
    assert isinstance(told, ServerFrame)
    await socket.close()
    return told.bye or ""


async def test_a_drain_is_told_to_who_was_half_inside_when_it_began(server: Server) -> None:
    """A session that does not know of it would send what is refused again and again."""
    body = b'{"model": "sim", "prompt": [[1, 2, 3]], "max_tokens": 2000}'
    with ThreadPoolExecutor(1) as pool:
        # Plain HTTP, which a drain lets end.
        holding = pool.submit(server.data.post, "/v1/completions", body)
        wait_until(lambda: server.status()["load"].get("running", 0) == 1, "it runs")
        async with connected(server) as half:
            server.manage.post("/drain")
            await half.send(encode_frame(ClientHello("half")))
            welcome, _ = decode_server(await half.recv(decode=False))
            assert isinstance(welcome, ServerHello)
            async with asyncio.timeout(5):
                said, _ = decode_server(await half.recv(decode=False))
            assert isinstance(said, ServerFrame)
            assert said.draining
        server.kill()
        with suppress(OSError):
            holding.result(10)


def connected(server: Server) -> connect:
    return connect(server.session_url, subprotocols=[Subprotocol("sampler.v1")])


def test_the_client_comes_back_too(server: Server, tmp_path: Path) -> None:
    """Its socket breaks on the way, and it loses nothing."""
    new = write_base(tmp_path / "b", 1)
    with (
        FaultProxy(server.data.number) as proxy,
        RemoteSampler(proxy.url, gone_timeout=1, tick=0.2) as sampler,
        ThreadPoolExecutor(1) as pool,
    ):
        inputs = [{"input_ids": [i + 1]} for i in range(4)]
        call = pool.submit(sampler.sample, inputs, {"max_tokens": LONG})
        wait_until(lambda: server.status()["load"].get("running", 0) == 4, "all run")
        update = Update(server, new)
        wait_until(lambda: bool(server.status()["operations"]), "the update waits")
        proxy.cut()
        for response in call.result(30):
            (sequence,) = response.sequences
            assert len(sequence.tokens) == LONG
            assert {s.revision.base for s in sequence.segments if s.revision} == {sim_digest()}
    assert update.wait() == base_digest(new)
