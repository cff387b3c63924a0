"""Servers that a client cannot use, or that cannot use its frames: typed errors with words."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fake_replica import hello_of
from tests.servers import Server, TunedServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from sampler_api.codec import encode_frame
from sampler_api.errors import (
    Forbidden,
    InvalidRequest,
    NoReplica,
    PayloadTooLarge,
    SamplerError,
    Unauthorized,
)
from sampler_api.frames import ServerFrame, ServerHello
from sampler_api.params import SamplingParams
from sampler_client import RemoteSampler

PARAMS = SamplingParams(max_tokens=4)


def refusal_of(url: str, **settings: Any) -> SamplerError:
    """The error of a call to servers that are of no use."""
    with (
        RemoteSampler(url, first_reply_timeout=1.0, reconnect_delay=0.05, **settings) as sampler,
        pytest.raises(SamplerError) as raised,
    ):
        sampler.sample({"input_ids": [5]}, PARAMS)
    return raised.value


@contextmanager
def saying(first: bytes | str) -> Iterator[str]:
    """A server whose first frame is ``first``; its address."""
    ready = threading.Event()
    port, loop = 0, asyncio.new_event_loop()
    over = asyncio.Event()

    async def welcome(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(first)
        await socket.wait_closed()

    async def run() -> None:
        nonlocal port
        protocols = [Subprotocol("sampler.v1")]
        async with serve(welcome, "127.0.0.1", 0, subprotocols=protocols) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("job:sample:right\n")
    with Server("--token-file", str(path)) as server:
        yield server


@pytest.mark.rule("S9.3", only=("remote",))
@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_client_without_the_right_token_is_told_at_its_first_call(
    guarded: Server, token: str | None
) -> None:
    error = refusal_of(guarded.url, token=token)
    assert isinstance(error, Unauthorized)
    assert guarded.url in str(error)
    assert "token= (or SAMPLER_TOKEN) must be in the server's token file" in str(error)
    with RemoteSampler(guarded.url, token="right") as sampler:
        assert len(sampler.sample({"input_ids": [5]}, PARAMS).sequences[0].tokens) == 4


def test_a_wrong_token_of_a_json_request_is_named(guarded: Server) -> None:
    status, body = guarded.data.post("/v1/sample", b'{"inputs": []}', token="wrong")
    assert (status, body["error"]["code"]) == (401, "unauthorized")
    assert body["error"]["field"] == "authorization"
    assert "token file" in body["error"]["message"]


def test_the_management_port_is_no_endpoint(guarded: Server) -> None:
    error = refusal_of(guarded.manage.url)
    assert isinstance(error, Forbidden | NoReplica)
    assert "data port" in str(error)


def test_where_nobody_listens_the_address_is_named() -> None:
    error = refusal_of("http://127.0.0.1:9")
    assert isinstance(error, NoReplica)
    assert "http://127.0.0.1:9: nobody listens there; check host and port" in str(error)


HELLO = hello_of()
OTHER = ServerHello(HELLO.replica, HELLO.incarnation, HELLO.card, HELLO.grant, protocol=9)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        pytest.param(encode_frame(OTHER), "speaks protocol 9, this client 1", id="protocol 9"),
        pytest.param(
            encode_frame(hello_of(max_frame_bytes=1 << 30)),
            "frames of up to 1073741824 bytes, this client takes 67108864; set max_frame_bytes=",
            id="frames that are too large",
        ),
        pytest.param(b"", "shorter", id="an empty frame"),
        pytest.param(b"\xff" * 40, "header", id="garbage"),
        pytest.param(encode_frame(ServerFrame(bye="busy: full")), "busy: full", id="a goodbye"),
    ],
)
def test_a_server_that_says_hello_wrongly_is_refused_with_words(first: bytes, words: str) -> None:
    with saying(first) as url:
        error = refusal_of(url)
    assert words in str(error)


@pytest.mark.rule("S9.1", "S9.3", "S9.6", only=("remote",))
def test_an_input_larger_than_a_frame_is_refused_alone() -> None:
    with (
        TunedServer(serve={"max_frame_bytes": 4096}) as server,
        RemoteSampler(server.url) as sampler,
    ):
        inputs = [{"input_ids": ids} for ids in ([5], [5] * 3000, [6])]
        with pytest.raises(PayloadTooLarge, match=r"inputs\[1\]: input_ids: 3000 tokens") as raised:
            sampler.sample(inputs, PARAMS)
        assert raised.value.field == "input_ids"
        assert [len(r.sequences[0].tokens) for r in raised.value.responses] == [4, 0, 4]
        # More than one frame holds, together.
        many = sampler.sample([{"input_ids": [5] * 300}] * 40, PARAMS)
        assert [len(sequence.tokens) for sequence in many.sequences] == [4] * 40


@pytest.mark.rule("S9.1", "S9.3", "S9.6", only=("remote",))
def test_prompt_logprobs_larger_than_a_frame_are_refused_alone() -> None:
    with (
        TunedServer(serve={"max_frame_bytes": 1 << 16}, flush={"frame_bytes": 1 << 12}) as server,
        RemoteSampler(server.url, max_frame_bytes=1 << 16) as sampler,
    ):
        # The others nearly fill a frame each, and their tokens come too.
        inputs = [{"input_ids": [5] * length} for length in (680, 690, 670, 660)]
        with pytest.raises(PayloadTooLarge, match=r"inputs\[1\]: prompt_logprobs: 10 ") as raised:
            sampler.sample(inputs, SamplingParams(max_tokens=64, logprobs=2, prompt_logprobs=10))
        error = raised.value
        assert error.field == "prompt_logprobs"
        assert f"690 prompt tokens are {690 * 84} bytes, over the limit of 57344" in str(error)
        found = error.responses
        assert [len(r.sequences[0].tokens) for r in found] == [64, 0, 64, 64]
        assert [len(r.topk_prompt_logprobs or ()) for r in found] == [680, 0, 670, 660]


@pytest.mark.parametrize("url", ["", "ftp://host", "http:///path", 5, None, ["http://host:1"]])
def test_an_address_that_is_none_is_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="http://host:port") as raised:
        RemoteSampler(url)
    assert raised.value.field == "endpoints"
