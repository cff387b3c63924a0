"""What the operator makes of lists and watches, whole and broken."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from sampler_operator import names
from sampler_operator.errors import Denied
from sampler_operator.kube.api import KubeApi
from sampler_operator.kube.informer import Informer
from sampler_operator.kube.resources import PODS
from sampler_operator.kube.view import KubeView
from sampler_operator.names import Key

KEY = Key("team", "fleet")
GONE = {"kind": "Status", "code": 410, "message": "too old resource version"}


def pod(name: str, version: int, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {names.FLEET_LABEL: KEY.name},
        },
        "status": {"phase": phase},
    }


def line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version)}})


class Server:
    """Answers lists and watches in the order in which they stand here; the last ones again. A watch
    that ends with None stays open."""

    def __init__(self) -> None:
        self.lists: list[tuple[int, dict[str, Any]]] = []
        self.watches: list[list[bytes | None]] = [[None]]
        self.asked: list[dict[str, str]] = []

    def has(self, version: int, *pods: dict[str, Any]) -> None:
        body = {"metadata": {"resourceVersion": str(version)}, "items": list(pods)}
        self.lists.append((200, body))

    def fails(self, status: int, message: str) -> None:
        self.lists.append((status, {"message": message}))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        assert request.query["labelSelector"] == names.LABEL_SELECTOR
        if "watch" not in request.query:
            status, body = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            return web.json_response(body, status=status)
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in self.watches.pop(0) if len(self.watches) > 1 else self.watches[0]:
            if chunk is None:
                await asyncio.Event().wait()
            else:
                await response.write(chunk)
        return response

    @property
    def watched_from(self) -> list[str]:
        return [query["resourceVersion"] for query in self.asked if "watch" in query]


class Watched:
    """An informer of pods at a server."""

    def __init__(self, server: Server, api: KubeApi) -> None:
        self.server = server
        self.view = KubeView()
        self.news: list[Key] = []
        self.informer = Informer(api, self.view, self.news.append, "Pod", PODS, "")

    def phases(self) -> dict[str, str]:
        sd = {
            "kind": names.KIND,
            "metadata": {"namespace": "team", "name": "fleet", "uid": "u", "resourceVersion": "1"},
        }
        self.view.put(sd)
        observed = self.view.observed(KEY)
        assert observed is not None
        return {pod.name: pod.phase for pod in observed.pods}

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Run until it is so."""
        running = asyncio.create_task(self.informer.run())
        try:
            async with asyncio.timeout(20):
                while not is_true():
                    if running.done():
                        await running
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def watched(server: Server) -> AsyncIterator[Watched]:
    app = web.Application()
    app.router.add_get(PODS.path(""), server.answer)
    # A test is over while watches are open.
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    api = KubeApi(Configuration(host=f"http://127.0.0.1:{port}"), connections=0)
    yield Watched(server, api)
    await api.close()
    await runner.cleanup()


async def test_what_a_list_shows_is_known(server: Server, watched: Watched) -> None:
    server.has(7, pod("a", 3), pod("b", 5, "Pending"))
    await watched.until(lambda: len(server.watched_from) == 1)
    assert watched.informer.listed.is_set()
    assert watched.phases() == {"a": "Running", "b": "Pending"}
    assert server.watched_from == ["7"]
    assert set(watched.news) == {KEY}


async def test_events_are_taken_in_however_they_are_cut(server: Server, watched: Watched) -> None:
    told = line("ADDED", pod("b", 8)) + line("MODIFIED", pod("a", 9, "Failed")) + bookmark(10)
    told += line("DELETED", pod("b", 11))
    server.has(7, pod("a", 3))
    server.watches = [[told[at : at + 50] for at in range(0, len(told), 50)] + [None]]
    await watched.until(lambda: watched.phases() == {"a": "Failed"})


async def test_a_watch_that_has_had_its_time_goes_on_where_it_ended(
    server: Server, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No watch is too short here.
    monkeypatch.setattr("sampler_operator.kube.informer.SHORTEST_SECONDS", 0.0)
    server.has(7)
    server.watches = [[line("ADDED", pod("a", 9))], [bookmark(12)], [None]]
    await watched.until(lambda: len(server.watched_from) == 3)
    assert server.watched_from == ["7", "9", "12"]
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([line("ERROR", GONE)], id="a version that is too old"),
        pytest.param([], id="a watch that ends at once"),
        pytest.param([b'{"type": "ADDED", "obj\n', None], id="a line that is no JSON"),
    ],
)
async def test_after_trouble_everything_is_listed_again(
    server: Server, watched: Watched, broken: list[bytes | None]
) -> None:
    server.has(7, pod("a", 3), pod("ended-unseen", 4))
    server.has(20, pod("a", 3), pod("made-unseen", 15))
    server.watches = [broken, [None]]
    await watched.until(lambda: len(server.watched_from) == 2)
    assert server.watched_from == ["7", "20"]
    assert set(watched.phases()) == {"a", "made-unseen"}


async def test_a_server_that_is_not_ready_is_asked_again(server: Server, watched: Watched) -> None:
    server.fails(503, "starting")
    server.has(7, pod("a", 3))
    await watched.until(watched.informer.listed.is_set)
    assert watched.phases() == {"a": "Running"}


async def test_without_the_right_to_list_it_ends_with_the_right_that_is_missing(
    server: Server, watched: Watched
) -> None:
    server.fails(403, 'pods is forbidden: User "a" cannot list resource "pods"')
    with pytest.raises(Denied, match="cannot list resource"):
        await watched.until(watched.informer.listed.is_set)


async def test_a_right_that_is_taken_away_later_is_waited_for(
    server: Server, watched: Watched
) -> None:
    server.has(7)
    server.fails(403, 'pods is forbidden: User "a" cannot list resource "pods"')
    server.has(9, pod("a", 8))
    server.watches = [[line("ERROR", GONE)], [None]]
    await watched.until(lambda: "a" in watched.phases())


async def test_a_kind_that_is_not_there_is_looked_for_when_one_of_it_was_made(
    server: Server, watched: Watched
) -> None:
    server.fails(404, "the server could not find the requested resource")
    server.has(7, pod("a", 3))

    def is_found() -> bool:
        if watched.informer.listed.is_set():
            watched.informer.look()
        return bool(server.watched_from)

    await watched.until(is_found)
    assert watched.phases() == {"a": "Running"}


async def test_with_a_kind_its_objects_have_gone(server: Server, watched: Watched) -> None:
    server.has(7, pod("a", 3))
    server.fails(404, "the server could not find the requested resource")
    server.watches = [[line("ERROR", GONE)]]
    await watched.until(lambda: len(server.asked) == 3 and not watched.phases())


async def test_an_object_that_is_not_understood_spares_the_others(
    server: Server, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    odd = pod("odd", 8)
    odd["status"]["conditions"] = [{"kind": "without a type"}]
    server.has(7)
    server.watches = [[line("ADDED", odd), line("ADDED", pod("a", 9)), None]]
    await watched.until(lambda: set(watched.phases()) == {"a"})
    assert "Pod odd is not understood" in caplog.text
