"""A client of ``sampler.v1`` that says exactly what a test wants said, and keeps what it hears."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
from tests.raw_deltas import append
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from sampler_api.codec import (
    PromptColumns,
    decode_server,
    encode_frame,
    prompt_columns,
)
from sampler_api.columns import Chunks
from sampler_api.frames import (
    Beat,
    Child,
    ClientFrame,
    ClientHello,
    Detail,
    Grant,
    RevisionRef,
    ServerFrame,
    ServerHello,
    Submit,
)
from sampler_api.logprobs import LogprobRows

__all__ = ["RawSession", "Received", "opened"]

TIMEOUT_SECONDS = 10.0


class Received:
    """What has arrived for one handle."""

    def __init__(self, k: int) -> None:
        self.columns = Chunks(k)
        self.flag = 0
        self.detail: Detail | None = None
        self.deltas = 0
        self.scores: PromptColumns | None = None
        self.beats: list[Beat] = []

    @property
    def logprobs(self) -> LogprobRows:
        rows = self.columns.arrays()[1]
        assert rows is not None
        return rows

    @property
    def tokens(self) -> list[int]:
        return [int(token) for token in self.columns.token_ids]


class RawSession:
    """One connection after its hello."""

    def __init__(self, socket: ClientConnection, hello: ServerHello) -> None:
        self.socket = socket
        self.hello = hello
        self.received: dict[int, Received] = {}
        self.frames: list[ServerFrame] = []
        self.grant: Grant = hello.grant
        self.is_draining = False

    async def send(self, frame: ClientFrame, columns: Sequence[Any] = ()) -> None:
        """Send a frame as it is."""
        await self.socket.send(encode_frame(frame, columns))

    async def submit(
        self,
        handle: int,
        *,
        seq: int = 0,
        child: int = 0,
        attempt: int = 0,
        prompt: Sequence[int] = (1, 2, 3),
        output: Sequence[int] = (),
        seed: int | None = 7,
        base: str | None = None,
        **params: Any,
    ) -> Received:
        """Ask for one sequence."""
        logprobs = params.get("logprobs")
        k = 0 if logprobs is None else max(1, logprobs)
        self.received[handle] = Received(k)
        frame = ClientFrame(
            params=[msgspec.Raw(msgspec.msgpack.encode(params))],
            revisions=[RevisionRef(self.hello.card.base if base is None else base)],
            prompts=[len(prompt)],
            submits=[Submit(seq, 0, 0, 0, [Child(handle, child, attempt, seed, len(output))])],
        )
        columns = [np.array(prompt, np.int32).tobytes(), np.array(output, np.int32).tobytes()]
        await self.send(frame, columns)
        return self.received[handle]

    async def ack(self, *handles: int) -> None:
        """Acknowledge finished columns."""
        await self.send(ClientFrame(acks=len(handles)), [np.array(handles, np.uint32).tobytes()])

    async def hear(self) -> ServerFrame:
        """Take the next frame in."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            data = await self.socket.recv()
        assert isinstance(data, bytes)
        frame, columns = decode_server(data)
        assert isinstance(frame, ServerFrame)
        self.frames.append(frame)
        ended, position = append(frame.blocks, columns, self.received)
        for handle, flag in ended:
            self.received[handle].flag = flag
        for detail in frame.details:
            self.received[detail.handle].detail = detail
        for beat in frame.beats:
            for handle in beat.handles:
                self.received[handle].beats.append(beat)
        for scores in prompt_columns(frame.prompts, columns[position:]):
            self.received[scores.handle].scores = scores
        if frame.grant is not None:
            self.grant = frame.grant
        self.is_draining = self.is_draining or frame.draining
        return frame

    async def ended(self, received: Received) -> Received:
        """Listen until a sequence has ended."""
        while not received.flag:
            await self.hear()
        return received

    async def at_least(self, received: Received, tokens: int) -> Received:
        """Listen until so many tokens have arrived."""
        while len(received.columns) < tokens:
            await self.hear()
        return received


@asynccontextmanager
async def opened(
    url: str, client: str = "client", *, weight: float = 1.0, token: str | None = None
) -> AsyncIterator[RawSession]:
    """Connect and say hello."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with connect(
        url,
        subprotocols=[Subprotocol("sampler.v1")],
        compression=None,
        max_size=None,
        additional_headers=headers,
    ) as socket:
        await socket.send(encode_frame(ClientHello(client=client, weight=weight)))
        data = await socket.recv()
        assert isinstance(data, bytes)
        hello, _ = decode_server(data)
        assert isinstance(hello, ServerHello)
        yield RawSession(socket, hello)
