"""Events as they are at the API server: equal ones are one object, whose count goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from tests.kube_answers import api_of

from sampler_operator.kube.api import KubeApi
from sampler_operator.kube.recorder import EVENTS, EventRecorder
from sampler_operator.metrics import OperatorMetrics
from sampler_operator.ports import Event

SD = {"metadata": {"name": "fleet", "namespace": "team", "uid": "u"}}
READY = Event("Normal", "Ready", "2 of 2 replicas ready")


class Store:
    """Keeps events as an API server does."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.app = web.Application()
        path = EVENTS.path("team")
        self.app.router.add_post(path, self._create)
        self.app.router.add_get(path, self._list)
        self.app.router.add_patch(path + "/{name}", self._merge)

    @property
    def counts(self) -> list[int]:
        return [event["count"] for event in self.events.values()]

    async def _create(self, request: web.Request) -> web.Response:
        event = await request.json()
        name = event["metadata"]["name"]
        if name in self.events:
            return web.json_response({"message": f"events {name} already exists"}, status=409)
        self.events[name] = event
        return web.json_response(event)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = request.query["fieldSelector"].removeprefix("metadata.name=")
        found = [event for name, event in self.events.items() if name == wanted]
        return web.json_response({"items": found})

    async def _merge(self, request: web.Request) -> web.Response:
        event = self.events.get(request.match_info["name"])
        if event is None:
            return web.json_response({"message": "not found"}, status=404)
        event |= await request.json()
        return web.json_response(event)


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def api(store: Store) -> AsyncIterator[KubeApi]:
    async with api_of(store.app) as api:
        yield api


async def record(api: KubeApi, store: Store, counts: list[int]) -> None:
    """One operator more tells it, until the store counts so often."""
    metrics = OperatorMetrics(CollectorRegistry())
    recorder = EventRecorder(api, lambda: datetime.now(UTC), metrics, lambda: False)
    running = asyncio.create_task(recorder.run())
    before = sum(store.counts)
    try:
        for _ in range(sum(counts) - before):
            recorder.put(SD, READY)
        async with asyncio.timeout(20):
            while store.counts != counts:
                assert not running.done()
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_operators_that_follow_each_other_count_on(api: KubeApi, store: Store) -> None:
    await record(api, store, [3])
    await record(api, store, [4])
    await record(api, store, [6])


async def test_an_event_that_has_expired_begins_anew(api: KubeApi, store: Store) -> None:
    await record(api, store, [2])
    store.events.clear()
    await record(api, store, [1])
