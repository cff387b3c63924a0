"""Sessions without sockets: a fake engine on one side, decoded frames on the other."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fake_engine import INFO, FakeEngine
from tests.raw_deltas import append

from sampler_api.codec import decode_client, decode_server, encode_frame
from sampler_api.columns import Chunks
from sampler_api.errors import AdapterMissing
from sampler_api.frames import (
    ABORT,
    ERROR,
    HANDED_OVER,
    LENGTH,
    Child,
    ClientFrame,
    ClientHello,
    Detail,
    Join,
    RevisionRef,
    ServerFrame,
    Submit,
)
from sampler_server.credits import Credits
from sampler_server.engines.base import EngineInfo, EngineProgress
from sampler_server.hub import Hub
from sampler_server.session import Session
from sampler_server.settings import FlushSettings, StreamSettings
from sampler_server.watchdog import watch

ADAPTER = "sha256:adapter"


class Adapters:
    """Loads when told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.error: AdapterMissing | None = None
        self.uses = 0

    async def acquire(self, ref: RevisionRef) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.uses += 1

    async def acquire_directory(self, path: str, name: str) -> str:
        raise NotImplementedError

    def release(self, digest: str) -> None:
        self.uses -= 1

    async def create(self, config: Mapping[str, object]) -> str:
        return ADAPTER

    def held(self) -> Mapping[str, str]:
        return {}

    async def close(self) -> None: ...


class Got:
    """What a handle was sent."""

    def __init__(self) -> None:
        self.columns = Chunks(0)
        self.flag = 0
        self.detail: Detail | None = None


class Replica:
    """A hub over a fake engine with a clock that stands still, and its sessions."""

    def __init__(
        self, streams: StreamSettings, flush: FlushSettings, info: EngineInfo = INFO
    ) -> None:
        self.now = 1000.0
        self.engine = FakeEngine(info)
        self.adapters = Adapters()
        self.hub = Hub(
            self.engine, adapters=self.adapters, settings=streams, clock=lambda: self.now
        )
        self.engine.start(self.hub.sink)
        self.hub.open()
        self.flush = flush
        self.credits = Credits(self.hub)

    def session(self, client: str = "c") -> "Peer":
        session = Session(self.hub, self.credits, ClientHello(client), self.flush, 64 << 20)
        self.credits.join(session)
        return Peer(self, session)

    async def settle(self) -> None:
        """Let the loop run what is ready."""
        for _ in range(5):
            await asyncio.sleep(0)


class Peer:
    """The client's side of a session."""

    def __init__(self, replica: Replica, session: Session) -> None:
        self.replica = replica
        self.session = session
        self.got: dict[int, Got] = {}

    def say(self, frame: ClientFrame, *columns: bytes) -> None:
        header, rest = decode_client(encode_frame(frame, columns))
        assert isinstance(header, ClientFrame)
        self.session.receive(header, rest)

    def submit(
        self,
        handle: int,
        *,
        seq: int = 0,
        attempt: int = 0,
        adapter: str | None = None,
        output: Sequence[int] = (),
        **params: Any,
    ) -> None:
        self.got[handle] = Got()
        frame = ClientFrame(
            params=[msgspec.Raw(msgspec.msgpack.encode(params))],
            revisions=[RevisionRef("sha256:base", adapter)],
            prompts=[3],
            submits=[Submit(seq, 0, 0, 0, [Child(handle, 0, attempt, 7, len(output))])],
        )
        ids = [np.array(a, np.int32).tobytes() for a in ((1, 2, 3), output)]
        self.say(frame, *ids)

    def join(self, handle: int, seq: int = 0, attempt: int = 0, offset: int = 0) -> None:
        self.got[handle] = Got()
        self.say(ClientFrame(joins=[Join(handle, seq, 0, attempt, offset)]))

    def ack(self, handle: int) -> None:
        self.say(ClientFrame(acks=1), np.array([handle], np.uint32).tobytes())

    def hear(self, after: float = 1.0) -> ServerFrame:
        """The frame that is built ``after`` so many seconds."""
        self.replica.now += after
        data = self.session.outbox.build(self.replica.now)
        frame, columns = decode_server(data)
        assert isinstance(frame, ServerFrame)
        ended, _ = append(frame.blocks, columns, self.got)
        for handle, flag in ended:
            self.got[handle].flag = flag
        for detail in frame.details:
            self.got[detail.handle].detail = detail
        return frame

    def tokens(self, handle: int) -> list[int]:
        return [int(token) for token in self.got[handle].columns.token_ids]


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica(StreamSettings(keep_bytes=2000), FlushSettings(frame_bytes=400))
    yield replica
    await replica.hub.close()


@pytest.mark.rule("S12.5", only=("remote",))
async def test_deltas_reach_their_handle_and_leave_at_the_ack(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4)
    replica.engine.give(0, [10, 11])
    await replica.settle()
    peer.hear()
    replica.engine.give(0, [12, 13], "length")
    await replica.settle()
    peer.hear()
    assert (peer.tokens(5), peer.got[5].flag) == ([10, 11, 12, 13], LENGTH)
    assert replica.hub.table.kept == 1
    peer.ack(5)
    assert (replica.hub.table.kept, peer.session.handles) == (0, {})
    assert peer.session.claim().is_idle


@pytest.mark.rule("S12.5", only=("remote",))
async def test_an_early_ack_forgets_nothing(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4)
    peer.ack(5)
    peer.ack(99)
    replica.engine.give(0, [1], "length")
    await replica.settle()
    peer.hear()
    assert peer.tokens(5) == [1]


async def test_the_last_end_waits_for_no_company(replica: Replica) -> None:
    peer = replica.session()
    for handle in (5, 6):
        peer.submit(handle, seq=handle, max_tokens=4)
    peer.hear()
    outbox = peer.session.outbox
    replica.engine.give(0, [10], "length")
    await replica.settle()
    assert outbox.due_at() == pytest.approx(replica.now + replica.flush.tick_seconds)
    replica.engine.give(1, [11], "length")
    await replica.settle()
    assert outbox.due_at() == pytest.approx(replica.now)
    peer.hear(after=0.0)
    assert (peer.tokens(5), peer.tokens(6)) == ([10], [11])


async def test_a_cancel_of_what_has_just_ended_needs_no_ack(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4)
    replica.engine.give(0, [1], "length")
    await replica.settle()
    peer.say(ClientFrame(cancels=[5]))
    peer.hear()
    assert peer.got[5].flag == ABORT
    assert (replica.hub.table.kept, peer.session.handles) == (0, {})


async def test_what_an_engine_says_after_a_cancel_is_dropped(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4)
    peer.say(ClientFrame(cancels=[5]))
    assert replica.engine.cancelled == [replica.engine.requests[0].key]
    replica.engine.give(0, [1], "abort")
    await replica.settle()
    peer.hear()
    assert (peer.got[5].flag, peer.tokens(5)) == (ABORT, [])


async def test_an_abort_of_the_engines_own_is_an_error_worth_a_retry(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4)
    replica.engine.give(0, [1], "abort")
    await replica.settle()
    peer.hear()
    detail = peer.got[5].detail
    assert detail is not None
    assert (peer.got[5].flag, detail.code) == (ERROR, "engine_failed")


async def test_a_missing_logprob_is_an_error(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(5, max_tokens=4, logprobs=1)
    replica.engine.give(0, [1, 2], logprobs=1)
    await replica.settle()
    peer.hear()
    assert peer.got[5].flag == ERROR
    assert replica.engine.cancelled == [replica.engine.requests[0].key]


async def test_a_frame_stops_growing_at_its_limit(replica: Replica) -> None:
    peer = replica.session()
    for handle in range(4):
        peer.submit(handle, seq=handle, max_tokens=90)
        replica.engine.give(handle, range(80), "length")
    await replica.settle()
    assert [block.deltas for block in peer.hear().blocks] == [2]
    assert [block.deltas for block in peer.hear(0.0).blocks] == [2]
    assert all(peer.tokens(handle) == list(range(80)) for handle in range(4))


@pytest.mark.rule("S12.4", only=("remote",))
async def test_a_stream_moves_to_the_session_that_joins_it(replica: Replica) -> None:
    old, new = replica.session(), replica.session()
    old.submit(1, max_tokens=50)
    replica.engine.give(0, [1, 2, 3])
    await replica.settle()
    old.hear()
    new.join(8, offset=2)
    replica.engine.give(0, [4], "length")
    await replica.settle()
    new.hear()
    assert new.tokens(8) == [3, 4]
    assert old.hear().blocks == []
    assert old.session.claim().is_idle
    assert new.session.claim().is_idle
    old.session.lost()
    assert replica.hub.table.kept == 1


@pytest.mark.rule("S12.5", only=("remote",))
async def test_a_dropped_sequence_tells_its_slow_reader(replica: Replica) -> None:
    peer = replica.session()
    for handle in range(4):
        peer.submit(handle, seq=handle, max_tokens=90)
        replica.engine.give(handle, range(90), "length")
    await replica.settle()
    replica.hub.keep_house()
    while not all(got.flag for got in peer.got.values()):
        peer.hear(0.0)
    flags = [peer.got[handle].flag for handle in range(4)]
    assert flags == [ERROR, ERROR, LENGTH, LENGTH]
    first = peer.got[0].detail
    assert first is not None
    assert first.code == "unknown_id"


@pytest.mark.rule("S12.4", only=("remote",))
async def test_a_lost_session_frees_its_streams_after_the_lease(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(1, max_tokens=50)
    peer.session.lost()
    replica.now += 29.0
    replica.hub.keep_house()
    assert replica.engine.cancelled == []
    replica.now += 1.0
    replica.hub.keep_house()
    assert replica.engine.cancelled == [replica.engine.requests[0].key]
    assert not replica.hub.table.running


async def test_an_adapter_is_held_while_its_sequences_run(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(1, adapter=ADAPTER, max_tokens=50)
    peer.submit(2, seq=2, adapter=ADAPTER, max_tokens=50)
    await replica.settle()
    assert replica.engine.requests == []
    assert [beat.handles for beat in peer.hear(2.0).beats] == [[1, 2]]
    replica.adapters.gate.set()
    await replica.settle()
    assert [request.adapter for request in replica.engine.requests] == [ADAPTER, ADAPTER]
    assert replica.adapters.uses == 2
    replica.engine.give(0, [1], "length")
    peer.say(ClientFrame(cancels=[2]))
    await replica.settle()
    assert replica.adapters.uses == 0


async def test_a_cancel_before_the_adapter_is_loaded_reaches_nothing(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(1, adapter=ADAPTER, max_tokens=50)
    peer.say(ClientFrame(cancels=[1]))
    replica.adapters.gate.set()
    await replica.settle()
    assert (replica.engine.requests, replica.adapters.uses) == ([], 0)


async def test_an_adapter_that_cannot_be_loaded_fails_its_sequences_alone(
    replica: Replica,
) -> None:
    peer = replica.session()
    replica.adapters.error = AdapterMissing("not here", "adapter_path")
    replica.adapters.gate.set()
    peer.submit(1, adapter=ADAPTER, max_tokens=50)
    peer.submit(2, seq=2, max_tokens=50)
    await replica.settle()
    peer.hear()
    detail = peer.got[1].detail
    assert detail is not None
    assert (detail.code, detail.field) == ("adapter_missing", "adapter_path")
    assert peer.got[2].flag == 0


@pytest.mark.rule("S12.7", only=("remote",))
async def test_a_drain_hands_over_what_runs_with_all_its_tokens(replica: Replica) -> None:
    peer = replica.session()
    peer.submit(1, max_tokens=50)
    replica.engine.give(0, [1, 2, 3])
    await replica.settle()
    peer.session.drain()
    assert peer.hear().draining
    assert (peer.got[1].flag, peer.tokens(1)) == (HANDED_OVER, [1, 2, 3])
    assert peer.session.outbox.is_empty


async def test_a_resumed_seeded_sequence_says_when_it_is_not_reproducible() -> None:
    replica = Replica(
        StreamSettings(), FlushSettings(), dataclasses.replace(INFO, is_reproducible=False)
    )
    peer = replica.session()
    peer.submit(1, max_tokens=5, output=[4, 5])
    peer.submit(2, seq=2, max_tokens=5)
    for index in (0, 1):
        replica.engine.give(index, [6], "stop")
    await replica.settle()
    peer.hear()
    detail = peer.got[1].detail
    assert detail is not None
    assert detail.not_reproducible
    assert peer.got[2].detail is None
    await replica.hub.close()


async def test_a_session_over_its_credit_is_told_to_wait(replica: Replica) -> None:
    peer = replica.session()
    for handle in range(41):
        peer.submit(handle, seq=handle, max_tokens=5)
    peer.hear()
    assert len(replica.engine.requests) == 40
    detail = peer.got[40].detail
    assert detail is not None
    assert detail.code == "busy"


@pytest.mark.rule("S12.6", only=("remote",))
async def test_credits_follow_demand(replica: Replica) -> None:
    idle, busy = replica.session("idle"), replica.session("busy")
    busy.say(ClientFrame(demand=(1000, 10**6)))
    # The news of the higher grant wakes the writer, which is this test.
    busy.session.wake.clear()
    async with asyncio.timeout(5):
        await busy.session.wake.wait()
    assert (busy.session.grant.sequences, idle.session.grant.sequences) == (10, 1)
    grant = busy.hear().grant
    assert grant is not None
    assert (grant.sequences, grant.epoch) == (10, busy.session.grant.epoch)


class Ticking:
    """A clock on which 10 ms pass whenever it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


async def test_a_wedged_engine_is_reported_once_with_words(replica: Replica) -> None:
    replica.engine.state = EngineProgress(steps=7, running=3)
    lines: list[str] = []
    replica.hub.clock = Ticking()
    await watch(replica.hub, lines.append, 0.05, poll_seconds=0.005, floor_seconds=0.0)
    assert len(lines) == 1
    assert "step 7" in lines[0]


async def test_an_engine_that_hangs_in_its_first_step_is_seen_although_it_counts_nothing(
    replica: Replica,
) -> None:
    session = replica.session()
    session.submit(0)
    assert replica.engine.progress().running == 0
    lines: list[str] = []
    replica.hub.clock = Ticking()
    await watch(replica.hub, lines.append, 0.05, poll_seconds=0.005, floor_seconds=0.0)
    assert "no step" in lines[0]
