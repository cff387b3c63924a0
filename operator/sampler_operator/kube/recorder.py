"""Events on SamplerDeployments, for ``kubectl describe``: written beside the passes, and slowly.

Events are news for people. They never hold a pass up, and in a storm the API server has better
things to do: what exceeds the rate waits, the rate is low while passes wait, and what exceeds the
queue is dropped.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime
from typing import Final

from .. import names
from ..errors import ClusterError, Missing, Refused
from ..metrics import OperatorMetrics
from ..objects import Manifest
from ..ports import Event
from .api import MERGE, KubeApi
from .resources import Resource, path_of

__all__ = ["EVENTS", "EventRecorder"]

log = logging.getLogger(__name__)

EVENTS: Final = Resource("", "v1", "events")

_WAITING: Final = 1000
_REMEMBERED: Final = 4096
_BURST: Final = 25
_PER_SECOND: Final = 10.0
_PER_SECOND_IF_BUSY: Final = 1.0
_LOOK_SECONDS: Final = 0.25
_LONGEST: Final = 1024
_CONFLICT: Final = "409"


class EventRecorder:
    """Equal events are one object with a count. ``put`` and ``run`` on one loop.

    ``is_busy`` says whether passes wait.
    """

    def __init__(
        self,
        api: KubeApi,
        now: Callable[[], datetime],
        metrics: OperatorMetrics,
        is_busy: Callable[[], bool],
    ) -> None:
        self._api = api
        self._now = now
        self._metrics = metrics
        self._is_busy = is_busy
        self._waiting: deque[tuple[Manifest, Event]] = deque()
        self._arrived = asyncio.Event()
        self._counts: OrderedDict[str, int] = OrderedDict()

    def put(self, sd: Manifest, event: Event) -> None:
        """Record it some time soon."""
        if len(self._waiting) >= _WAITING:
            self._metrics.dropped_event()
            return
        meta = {name: sd["metadata"][name] for name in ("name", "namespace", "uid")}
        self._waiting.append((meta, event))
        self._arrived.set()

    async def run(self) -> None:
        """Write what was put, until cancelled."""
        loop = asyncio.get_running_loop()
        tokens, counted = float(_BURST), loop.time()
        while True:
            await self._arrived.wait()
            now = loop.time()
            rate = _PER_SECOND_IF_BUSY if self._is_busy() else _PER_SECOND
            tokens = min(_BURST, tokens + (now - counted) * rate)
            counted = now
            if tokens < 1:
                await asyncio.sleep(min(_LOOK_SECONDS, (1 - tokens) / rate))
                continue
            tokens -= 1
            meta, event = self._waiting.popleft()
            if not self._waiting:
                self._arrived.clear()
            try:
                await self._write(meta, event)
            except ClusterError as error:
                self._metrics.failed(error)
                log.warning("event %s was not recorded: %s", event.reason, error.message)

    async def _write(self, meta: Manifest, event: Event) -> None:
        said = f"{meta['uid']} {event.kind} {event.reason} {event.message}"
        name = f"{meta['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        count = self._counts.pop(name, 0) + 1
        if count > 1 and not await self._count(meta, name, count):
            count = 1  # the former one has expired
        if count == 1:
            try:
                body = self._event(meta, event, name)
                await self._api.call("POST", path_of(EVENTS, meta["namespace"]), body=body)
            except Refused as error:
                if error.field != _CONFLICT:
                    raise
                # An operator before this one has told it, or this one long ago.
                count = await self._told(meta, name) + 1
                await self._count(meta, name, count)
        self._counts[name] = count
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)

    async def _told(self, meta: Manifest, name: str) -> int:
        """How often the event has happened by its own account."""
        path, query = path_of(EVENTS, meta["namespace"]), {"fieldSelector": f"metadata.name={name}"}
        found = (await self._api.call("GET", path, query=query))["items"]
        return int(found[0].get("count") or 1) if found else 0  # it may just have expired

    async def _count(self, meta: Manifest, name: str, count: int) -> bool:
        path = path_of(EVENTS, meta["namespace"], name)
        patch = {"count": count, "lastTimestamp": self._time()}
        try:
            await self._api.call("PATCH", path, body=patch, content_type=MERGE)
        except Missing:
            return False
        return True

    def _event(self, meta: Manifest, event: Event, name: str) -> Manifest:
        time = self._time()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": meta["namespace"]},
            "involvedObject": {"apiVersion": names.API_VERSION, "kind": names.KIND, **meta},
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:_LONGEST],
            "count": 1,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "reportingInstance": names.FIELD_MANAGER,
        }

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
