"""The session endpoint of a real server process, frame by frame."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from tests.proxy import wait_until
from tests.raw_session import RawSession, Received, opened
from tests.servers import TunedServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from sampler_api.codec import decode_server, encode_frame
from sampler_api.frames import (
    ABORT,
    ERROR,
    LENGTH,
    STOP,
    CancelId,
    Child,
    ClientFrame,
    ClientHello,
    Join,
    ServerFrame,
    Submit,
)
from sampler_server.engines.sim import tokenizer_files
from sampler_server.tokenizer import served_tokenizer

RATE = 200.0
"""Tokens a second of the slow server."""


@pytest.fixture(scope="module")
def fast() -> Iterator[TunedServer]:
    with TunedServer() as server:
        yield server


@pytest.fixture(scope="module")
def slow() -> Iterator[TunedServer]:
    flush = {"wait_seconds": 0.02, "heartbeat_seconds": 0.1}
    streams = {"lease_seconds": 0.5}
    with TunedServer(latency={"decode_rate": RATE}, flush=flush, streams=streams) as server:
        yield server


_names = iter(range(1_000_000))


@pytest.fixture
async def session(fast: TunedServer) -> AsyncIterator[RawSession]:
    async with opened(fast.session_url, f"client-{next(_names)}") as session:
        yield session


@pytest.fixture
async def patient(slow: TunedServer) -> AsyncIterator[RawSession]:
    async with opened(slow.session_url, f"client-{next(_names)}") as session:
        yield session


async def _until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    await asyncio.to_thread(wait_until, holds, "what the test waits for", seconds)


# -- what a request gets ---------------------------------------------------------------------------


async def test_a_sequence_comes_back_with_a_logprob_per_token(session: RawSession) -> None:
    got = await session.ended(await session.submit(0, max_tokens=16, logprobs=1))
    assert got.flag == LENGTH
    assert len(got.tokens) == 16
    assert len(got.logprobs) == 16


async def test_candidates_come_as_rows_with_the_sampled_token_first(session: RawSession) -> None:
    got = await session.ended(await session.submit(0, max_tokens=5, logprobs=3))
    assert [row[0][0] for row in got.logprobs.tolist()] == got.tokens
    assert {len(row) for row in got.logprobs.tolist()} == {3}


async def test_prompt_scores_come_with_the_first_child(session: RawSession) -> None:
    got = await session.ended(await session.submit(0, max_tokens=0, prompt_logprobs=2))
    assert got.flag == LENGTH
    assert got.scores is not None
    assert len(got.scores.logprobs) == 3 * 4
    assert len(got.scores.top_ids) == 3 * 2 * 4


async def test_many_requests_in_one_frame_are_all_answered(session: RawSession) -> None:
    received = [await session.submit(h, seq=h, max_tokens=4, logprobs=1) for h in range(100)]
    for got in received:
        await session.ended(got)
    assert {got.flag for got in received} == {LENGTH}


async def test_a_stop_string_cuts_tokens_and_logprobs_behind_it(session: RawSession) -> None:
    whole = await session.ended(await session.submit(0, max_tokens=64, logprobs=1))
    tokenizer = served_tokenizer(tokenizer_files())
    assert tokenizer is not None
    text = next(
        pair for pair in map("".join, pairwise(tokenizer.decode(whole.tokens))) if pair.isalnum()
    )
    got = await session.ended(
        await session.submit(1, seq=1, max_tokens=64, logprobs=1, stop=[text])
    )
    assert got.flag == STOP
    assert got.detail is not None
    assert got.detail.matched == text
    assert got.tokens == whole.tokens[: len(got.tokens)]
    assert text in tokenizer.decode(got.tokens)
    assert text not in tokenizer.decode(got.tokens[:-1])
    assert len(got.logprobs) == len(got.tokens)


async def test_delivered_tokens_count_as_generated(session: RawSession) -> None:
    whole = await session.ended(await session.submit(0, max_tokens=20))
    rest = await session.ended(
        await session.submit(1, seq=1, max_tokens=20, output=whole.tokens[:13])
    )
    assert rest.tokens == whole.tokens[13:]


async def test_nothing_left_to_generate_ends_at_once(session: RawSession) -> None:
    got = await session.ended(await session.submit(0, max_tokens=3, output=[5, 6, 7]))
    assert (got.flag, got.tokens) == (LENGTH, [])


async def test_deltas_are_batched(patient: RawSession) -> None:
    got = await patient.ended(await patient.submit(0, max_tokens=40))
    news = [frame for frame in patient.frames if frame.blocks]
    assert len(got.tokens) == 40
    assert len(news) < 30


# -- requests that are refused, each alone ---------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("an empty prompt", {"prompt": []}, "invalid_request", "input_ids"),
    ("a token id beyond the vocabulary", {"prompt": [1, 10**6]}, "invalid_request", "input_ids"),
    ("a negative token id", {"prompt": [1, -1]}, "invalid_request", "input_ids"),
    ("a prompt over the context", {"prompt": [1] * 40_000}, "invalid_request", "input_ids"),
    ("delivered tokens out of range", {"output": [-3]}, "invalid_request", "output_ids"),
    ("a negative temperature", {"temperature": -1.0}, "invalid_request", "temperature"),
    ("an infinite temperature", {"temperature": float("inf")}, "invalid_request", "temperature"),
    ("an unknown parameter", {"temprature": 1.0}, "invalid_request", "temprature"),
    ("a list where a number belongs", {"top_p": [1]}, "invalid_request", "top_p"),
    ("a stop id out of range", {"stop_token_ids": [10**6]}, "invalid_request", "stop_token_ids"),
    ("more candidates than allowed", {"logprobs": 1024}, "invalid_request", "logprobs"),
    ("another base", {"base": "sha256:other"}, "base_mismatch", "revision"),
]


@pytest.mark.parametrize(
    ("request_", "code", "field"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
async def test_a_bad_request_is_refused_and_others_go_on(
    session: RawSession, request_: dict[str, Any], code: str, field: str
) -> None:
    bad = await session.submit(3, seq=3, **request_)
    good = await session.submit(4, seq=4, max_tokens=4)
    await session.ended(bad)
    await session.ended(good)
    assert bad.flag == ERROR
    assert bad.detail is not None
    assert (bad.detail.code, bad.detail.field) == (code, field)
    assert field in bad.detail.message or code == "base_mismatch"
    assert good.flag == LENGTH


async def test_a_refused_handle_is_free_again(session: RawSession) -> None:
    await session.ended(await session.submit(0, prompt=[]))
    assert (await session.ended(await session.submit(0, max_tokens=2))).flag == LENGTH


# -- connections that are refused or closed --------------------------------------------------------


async def _bye_of(url: str, *messages: bytes | str) -> tuple[str, int]:
    """What the server says when it closes, and its close code."""
    bye = ""
    protocols = [Subprotocol("sampler.v1")]
    async with connect(url, subprotocols=protocols, compression=None) as socket:
        try:
            for message in messages:
                await socket.send(message)
            while True:
                data = await asyncio.wait_for(socket.recv(), 10)
                assert isinstance(data, bytes)
                header, _ = decode_server(data)
                if isinstance(header, ServerFrame):
                    bye = header.bye or bye
        except ConnectionClosed as closed:
            return bye, closed.rcvd.code if closed.rcvd else 1006


HELLO = encode_frame(ClientHello(client="broken"))
SUBMIT = Submit(0, 5, 0, 0, [Child(0, 0, 0, 1, 0)])
BROKEN: list[tuple[str, list[bytes | str], str]] = [
    ("an empty frame", [HELLO, b""], "shorter"),
    ("a header that is no msgpack", [HELLO, struct.pack("<I", 3) + b"abc"], "frame"),
    ("a header longer than its frame", [HELLO, struct.pack("<I", 1 << 30) + b"abc"], "header"),
    ("a text message", [HELLO, "hello"], "binary"),
    ("a frame before the hello", [encode_frame(ClientFrame())], "hello"),
    ("a second hello", [HELLO, HELLO], "second hello"),
    (
        "an unknown protocol version",
        [encode_frame(ClientHello("x", protocol=9))],
        "version 1, not 9",
    ),
    ("columns that are too short", [HELLO, encode_frame(ClientFrame(prompts=[7]))], "columns"),
    ("a length that is negative", [HELLO, encode_frame(ClientFrame(prompts=[-1]))], "columns"),
    ("indices outside the tables", [HELLO, encode_frame(ClientFrame(submits=[SUBMIT]))], "tables"),
    ("an empty client name", [encode_frame(ClientHello(""))], "client"),
]


@pytest.mark.parametrize(("messages", "words"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
async def test_a_broken_frame_closes_its_connection_alone(
    fast: TunedServer, session: RawSession, messages: list[bytes | str], words: str
) -> None:
    bye, code = await _bye_of(fast.session_url, *messages)
    assert code == 1002
    assert bye.startswith("protocol_error: ")
    assert words in bye
    assert (await session.ended(await session.submit(0, max_tokens=2))).flag == LENGTH


async def test_an_oversized_frame_closes_its_connection_alone() -> None:
    with TunedServer(serve={"max_frame_bytes": 4096}) as server:
        async with opened(server.session_url, "good") as good:
            assert good.hello.max_frame_bytes == 4096
            _, code = await _bye_of(server.session_url, HELLO, b"x" * 10_000)
            assert code == 1009
            assert (await good.ended(await good.submit(0, max_tokens=2))).flag == LENGTH


async def test_a_handle_in_use_is_not_taken_twice(patient: RawSession) -> None:
    await patient.submit(0, max_tokens=1000)
    await patient.submit(0, seq=1, max_tokens=1000)
    frame = await patient.hear()
    while frame.bye is None:
        frame = await patient.hear()
    assert "handle 0" in frame.bye


async def test_a_client_without_the_subprotocol_is_refused(fast: TunedServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(fast.session_url)
    assert refused.value.response.status_code == 400
    assert b"sampler.v1" in refused.value.response.body


# -- ids -------------------------------------------------------------------------------------------


async def test_a_repeated_id_joins_and_starts_nothing(slow: TunedServer) -> None:
    async with opened(slow.session_url, "repeats") as first:
        received = await first.submit(0, seq=5, max_tokens=60)
        await first.at_least(received, 5)
        running = slow.status()["load"]["running"]
        again = await first.submit(1, seq=5, max_tokens=60)
        await first.ended(again)
        assert slow.status()["load"]["running"] <= running
        assert len(again.tokens) == 60
        assert again.tokens[: len(received.tokens)] == received.tokens


@pytest.mark.rule("S12.1", "S12.4", only=("remote",))
async def test_a_new_session_joins_at_its_offset(slow: TunedServer) -> None:
    async with opened(slow.session_url, "joins") as first:
        head = await first.at_least(await first.submit(0, max_tokens=80, logprobs=1), 10)
    tokens = head.tokens
    async with opened(slow.session_url, "joins") as second:
        second.received[3] = rest = Received(1)
        await second.send(ClientFrame(joins=[Join(3, 0, 0, 0, len(tokens))]))
        await second.ended(rest)
        whole = await second.ended(await second.submit(4, seq=1, max_tokens=80))
    assert tokens + rest.tokens == whole.tokens
    assert rest.flag == LENGTH


async def test_offsets_count_delivered_tokens_too(slow: TunedServer) -> None:
    async with opened(slow.session_url, "offsets") as session:
        received = await session.submit(0, max_tokens=60, output=[9, 9, 9])
        await session.at_least(received, 8)
        held = received.tokens
        session.received[1] = rest = Received(0)
        await session.send(ClientFrame(joins=[Join(1, 0, 0, 0, 3 + len(held))]))
        await session.ended(rest)
        assert len(held) + len(rest.tokens) == 57


@pytest.mark.rule("S12.3", only=("remote",))
@pytest.mark.parametrize(
    "join",
    [
        pytest.param(Join(1, 9, 0, 0, 0), id="of an unknown request"),
        pytest.param(Join(1, 0, 1, 0, 0), id="of an unknown sample"),
        pytest.param(Join(1, 0, 0, 1, 0), id="of another attempt"),
        pytest.param(Join(1, 0, 0, 0, 500), id="beyond what was made"),
    ],
)
async def test_an_impossible_join_answers_unknown_id(session: RawSession, join: Join) -> None:
    await session.ended(await session.submit(0, max_tokens=4))
    session.received[1] = got = Received(0)
    await session.send(ClientFrame(joins=[join]))
    await session.ended(got)
    assert got.detail is not None
    assert (got.flag, got.detail.code) == (ERROR, "unknown_id")


@pytest.mark.rule("S12.5", only=("remote",))
async def test_acked_columns_are_forgotten(session: RawSession, fast: TunedServer) -> None:
    await session.ended(await session.submit(0, max_tokens=4))
    await session.ack(0)
    session.received[1] = got = Received(0)
    await session.send(ClientFrame(joins=[Join(1, 0, 0, 0, 0)]))
    assert (await session.ended(got)).flag == ERROR


@pytest.mark.rule("S12.2", only=("remote",))
async def test_a_higher_attempt_supersedes_and_a_lower_one_is_refused(patient: RawSession) -> None:
    first = await patient.submit(0, max_tokens=1000)
    await patient.at_least(first, 3)
    second = await patient.submit(1, attempt=2, max_tokens=30)
    await patient.ended(first)
    assert first.flag == ABORT
    third = await patient.submit(2, attempt=1, max_tokens=30)
    await patient.ended(third)
    assert third.detail is not None
    assert third.detail.code == "unknown_id"
    assert (await patient.ended(second)).flag == LENGTH


# -- ends ------------------------------------------------------------------------------------------


async def test_a_cancel_reaches_the_engine(patient: RawSession, slow: TunedServer) -> None:
    received = await patient.submit(0, max_tokens=10_000)
    await patient.at_least(received, 3)
    await patient.send(ClientFrame(cancels=[0]))
    await patient.ended(received)
    assert received.flag == ABORT
    await _until(lambda: slow.status()["load"]["running"] == 0)


async def test_an_id_of_an_older_session_can_be_cancelled(slow: TunedServer) -> None:
    async with opened(slow.session_url, "stale") as first:
        await first.at_least(await first.submit(0, max_tokens=10_000), 3)
    async with opened(slow.session_url, "stale") as second:
        await second.send(ClientFrame(cancel_ids=[CancelId(0, 0, 0)]))
        await _until(lambda: slow.status()["load"]["running"] == 0, 0.45)


@pytest.mark.rule("S12.4", only=("remote",))
async def test_a_lost_session_is_aborted_when_its_lease_ends(slow: TunedServer) -> None:
    async with opened(slow.session_url, "lost") as session:
        await session.at_least(await session.submit(0, max_tokens=10_000), 3)
    assert slow.status()["load"]["running"] == 1
    await _until(lambda: slow.status()["load"]["running"] == 0)


async def test_bye_cancels_at_once(slow: TunedServer) -> None:
    async with opened(slow.session_url, "leaves") as session:
        await session.at_least(await session.submit(0, max_tokens=10_000), 3)
        await session.send(ClientFrame(bye=True))
        await _until(lambda: slow.status()["load"]["running"] == 0, 0.45)


# -- signs of life ---------------------------------------------------------------------------------


async def test_an_idle_session_hears_the_load_every_second(session: RawSession) -> None:
    frame = await session.hear()
    while frame.load is None:
        frame = await session.hear()
    assert frame.load.slots > 0


@pytest.mark.rule("S12.8", only=("remote",))
async def test_queued_sequences_get_beats_while_others_run() -> None:
    with TunedServer(
        sim={"slots": 1}, latency={"decode_rate": 100.0}, flush={"heartbeat_seconds": 0.1}
    ) as server:
        async with opened(server.session_url) as session:
            await session.submit(0, max_tokens=10_000)
            waits = await session.submit(1, seq=1, prompt=[1] * 50, max_tokens=10)
            while not waits.beats:
                await session.hear()
            assert (waits.beats[0].done, waits.beats[0].total) == (0, 50)


# -- credits ---------------------------------------------------------------------------------------


async def test_a_lone_session_gets_the_whole_credit(fast: TunedServer) -> None:
    async with opened(fast.session_url, "alone") as session:
        slots = (await _load_of(session)).slots
        await session.send(ClientFrame(demand=(10**6, 10**9)))
        while session.grant.sequences < slots:
            await session.hear()


@pytest.mark.rule("S12.6", only=("remote",))
async def test_sessions_with_demand_share_by_weight() -> None:
    with TunedServer(sim={"slots": 80}) as server:
        async with (
            opened(server.session_url, "heavy", weight=3.0) as heavy,
            opened(server.session_url, "light") as light,
        ):
            await heavy.send(ClientFrame(demand=(1000, 10**6)))
            await light.send(ClientFrame(demand=(1000, 10**6)))
            while (heavy.grant.sequences, light.grant.sequences) != (75, 25):
                await heavy.hear()
                await light.hear()


async def _load_of(session: RawSession) -> Any:
    while True:
        frame = await session.hear()
        if frame.load is not None:
            return frame.load


# -- back-pressure ---------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_stops_nobody_else(slow: TunedServer) -> None:
    async with (
        opened(slow.session_url, "deaf") as deaf,
        opened(slow.session_url, "good") as good,
    ):
        deaf.socket.transport.pause_reading()
        for handle in range(50):
            await deaf.submit(handle, seq=handle, max_tokens=100, logprobs=20)
        got = await good.ended(await good.submit(0, max_tokens=50))
        assert got.flag == LENGTH
        deaf.socket.transport.resume_reading()
        for handle in range(50):
            assert len((await deaf.ended(deaf.received[handle])).tokens) == 100
