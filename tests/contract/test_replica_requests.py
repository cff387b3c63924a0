"""Plain HTTP requests to several replicas, of which some are dead, frozen, or no sampler server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from sampler_api.errors import (
    AdapterCapacity,
    AdapterInvalid,
    AdapterMissing,
    ConnectTimeout,
    InvalidRequest,
    NoReplica,
    ProgressTimeout,
    ProtocolError,
    SamplerError,
)
from sampler_client.replica_requests import (
    Answer,
    HttpRequest,
    agreed,
    ask_all,
    ask_in_turn,
    http_client,
)
from sampler_client.settings import ClientSettings

REQUEST = HttpRequest("POST", "/v1/adapters", {"name": "a"})
SETTINGS = ClientSettings(request_timeout=20.0, straggler_timeout=0.05)

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(status: int, body: object) -> Reply:
    """A server that answers so; a text goes as it is, everything else as JSON."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()

    async def reply(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} x\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()

    return reply


def refuses(error: SamplerError) -> Reply:
    """A server that answers with an error of ours."""
    return says(500, {"error": {"code": error.code, "message": str(error), "field": error.field}})


async def is_frozen(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dies(writer: asyncio.StreamWriter) -> None:
    pass


FINE = says(201, {"digest": "d"})
PROXY = says(502, "<html>bad gateway</html>")
INVALID = refuses(AdapterInvalid("no such directory"))
FULL = refuses(AdapterCapacity("full"))


@asynccontextmanager
async def replica(reply: Reply) -> AsyncIterator[str]:
    """A server that reads a request and then does as told; its address."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reply(writer)
        except asyncio.CancelledError:
            # The end of the test; asyncio's server would report it as a failure.
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks))


@asynccontextmanager
async def replicas(replies: Sequence[Reply]) -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(replica(reply)) for reply in replies]


async def answers_of(
    *replies: Reply, settings: ClientSettings = SETTINGS
) -> tuple[list[str], dict[str, Answer]]:
    """Addresses and answers, all asked at once."""
    async with replicas(replies) as urls:
        return urls, await ask_all(http_client(urls, settings), REQUEST, urls, settings)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(is_frozen, id="frozen"),
        pytest.param(dies, id="dying"),
        pytest.param(PROXY, id="behind a proxy that has lost it"),
        pytest.param(FULL, id="full"),
    ],
)
async def test_one_success_is_enough_beside_a_replica_that_is(other: Reply) -> None:
    urls, answers = await answers_of(other, FINE, other)
    assert agreed(answers) == {urls[1]: {"digest": "d"}}


async def test_a_replica_that_has_gone_is_passed_over() -> None:
    async with replica(FINE) as gone:
        pass
    async with replica(FINE) as url:
        answers = await ask_all(http_client([gone, url], SETTINGS), REQUEST, [gone, url], SETTINGS)
    assert list(agreed(answers)) == [url]
    assert isinstance(answers[gone], NoReplica)


async def test_slow_replicas_are_waited_for_a_while() -> None:
    begun = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await begun.wait()
        await FINE(writer)

    async def fast(writer: asyncio.StreamWriter) -> None:
        await FINE(writer)
        begun.set()

    patient = ClientSettings(straggler_timeout=20.0)
    urls, answers = await answers_of(slow, fast, slow, settings=patient)
    assert sorted(agreed(answers)) == sorted(urls)


@pytest.mark.parametrize("other", [is_frozen, dies, FINE])
async def test_a_refusal_for_good_is_raised_whatever_the_others_do(other: Reply) -> None:
    _, answers = await answers_of(other, INVALID, other)
    with pytest.raises(AdapterInvalid, match="no such directory"):
        agreed(answers)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        pytest.param(dies, NoReplica, "disconnected", id="dying"),
        pytest.param(is_frozen, ProgressTimeout, "no answer in time", id="frozen"),
        pytest.param(PROXY, NoReplica, "HTTP 502.*bad gateway", id="a proxy's page"),
        pytest.param(says(500, ""), NoReplica, "HTTP 500", id="an empty 500"),
        pytest.param(says(503, ["x"]), NoReplica, "HTTP 503", id="JSON of somebody else"),
        pytest.param(says(404, "nothing"), ProtocolError, "HTTP 404", id="another server"),
        pytest.param(says(200, "hello"), ProtocolError, "HTTP 200", id="a success of another"),
    ],
)
async def test_an_answer_that_is_none_is_a_typed_error_with_the_endpoint(
    reply: Reply, error: type[SamplerError], words: str
) -> None:
    (url,), answers = await answers_of(reply, settings=ClientSettings(request_timeout=0.2))
    with pytest.raises(error, match=words) as raised:
        agreed(answers)
    assert f"POST {url}/v1/adapters" in str(raised.value)


async def test_where_none_succeeds_all_reasons_are_told() -> None:
    urls, answers = await answers_of(PROXY, FULL, dies)
    with pytest.raises(NoReplica) as raised:
        agreed(answers)
    assert all(words in str(raised.value) for words in (urls[0], "full", urls[2]))


async def test_in_turn_the_first_success_ends_it() -> None:
    settings = ClientSettings(straggler_timeout=0.2)
    async with replicas([is_frozen, dies, FINE, INVALID]) as urls:
        answers = await ask_in_turn(http_client(urls, settings), REQUEST, urls, settings)
    assert agreed(answers) == {urls[2]: {"digest": "d"}}
    assert list(answers) == urls[:3]


@pytest.mark.parametrize("error", [AdapterMissing("x"), ProtocolError("x")])
def test_what_no_other_replica_helps_with_is_raised_beside_a_success(error: SamplerError) -> None:
    with pytest.raises(type(error)):
        agreed({"a": {}, "b": error})


def test_the_first_of_several_passing_errors_gives_the_type() -> None:
    errors: dict[str, Answer] = {"a": ConnectTimeout("a: late"), "b": NoReplica("b: gone")}
    with pytest.raises(ConnectTimeout, match=r"^a: late; b: gone$"):
        agreed(errors)


async def test_certificates_are_read_where_a_replica_is_encrypted_and_only_there() -> None:
    settings = ClientSettings(ca_file="/no/such/file")
    async with http_client(["http://127.0.0.1:1"], settings):
        pass
    with pytest.raises(InvalidRequest, match="/no/such/file"):
        http_client(["http://127.0.0.1:1", "https://127.0.0.1:1"], settings)
