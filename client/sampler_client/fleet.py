"""A fleet as a backend: one event loop in one thread, a connection per endpoint, one dispatcher.

Callers hand groups over through a queue with one wake-up for many, so that a call costs the loop's
thread no task, no future and no lock per request.
"""

import asyncio
import base64
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sampler_api.errors import (
    AdapterMissing,
    FleetError,
    Forbidden,
    NoReplica,
    ProtocolError,
    SamplerClosed,
    SamplerError,
    Unauthorized,
    error_from_wire,
)
from sampler_api.frames import ModelCard, RevisionRef, ServerHello
from sampler_api.names import ADAPTERS_PATH, TOKENIZER_PATH
from sampler_core.groups import Group

from .connection import Connection
from .discovery import Discovery, Endpoint
from .dispatcher import Dispatcher
from .replica import Replica
from .settings import ClientSettings

__all__ = ["Fleet"]

log = logging.getLogger("sampler_client")

_CLOSED = "the sampler was closed, or its loop failed as the log says; make a new one"
_HOPELESS = (Unauthorized, Forbidden, ProtocolError)


class Fleet:
    """Implements ``sampler_core.groups.Backend`` over sessions. Starts its thread at the first
    use."""

    def __init__(self, discovery: Discovery, settings: ClientSettings) -> None:
        self._discovery = discovery
        self._settings = settings
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._is_closed = False

    def _running(self) -> "_Worker":
        worker = self._worker
        # A forked child has the object but not the thread, and must not share ids with its parent.
        if worker is not None and worker.pid == os.getpid():
            return worker
        with self._lock:
            if self._is_closed:
                raise SamplerClosed(_CLOSED)
            if self._worker is None or self._worker.pid != os.getpid():
                self._worker = _Worker(self._discovery, self._settings)
                self._worker.start()
            return self._worker

    @property
    def is_ready(self) -> bool:
        """A replica has answered."""
        worker = self._worker
        return worker is not None and worker.pid == os.getpid() and worker.card is not None

    def card(self) -> ModelCard:
        """What the fleet serves. Raises NoReplica, Unauthorized, Forbidden, ProtocolError."""
        worker = self._running()
        card = worker.card
        if card is not None:
            return card
        return worker.wait_for_card()

    def submit(self, groups: Sequence[Group]) -> None:
        """Queue groups."""
        if groups:
            self._running().post(groups)

    def cancel(self, groups: Sequence[Group]) -> None:
        """End groups."""
        worker = self._worker
        if groups and worker is not None and worker.pid == os.getpid():
            worker.call(worker.dispatcher.cancel, groups)

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The tokenizer of any replica, by file name."""
        if self.card().tokenizer is None:
            return {}
        reply = self._request("GET", TOKENIZER_PATH)
        return {name: base64.b64decode(data) for name, data in reply.get("files", {}).items()}

    def create_adapter(self, config: Mapping[str, object]) -> str:
        """Make a zero adapter on every replica that is connected; all must give one digest."""
        self.card()
        digests = {
            self._request("POST", ADAPTERS_PATH, {"config": config}, url)["digest"]
            for url in self._running().urls()
        }
        if len(digests) != 1:
            raise FleetError(f"replicas made different adapters of one config: {sorted(digests)}")
        digest: str = digests.pop()
        return digest

    def ensure_adapter(self, ref: RevisionRef) -> None:
        """Have every connected replica load a revision now.

        A wrong directory is found here and not at a request, and what a trainer writes over the
        directory later changes nothing: replicas keep a copy.
        """
        if ref.path is None:
            return
        self.card()
        body = {"name": ref.name, "digest": ref.adapter, "path": ref.path}
        for url in self._running().urls():
            self._request("POST", ADAPTERS_PATH, body, url)

    def _request(
        self, method: str, path: str, body: Any = None, url: str | None = None
    ) -> dict[str, Any]:
        import httpx

        headers = {}
        if self._settings.token:
            headers["Authorization"] = f"Bearer {self._settings.token}"
        last: Exception | None = None
        for base in [url] if url else self._running().urls():
            try:
                reply = httpx.request(
                    method, base + path, json=body, headers=headers, timeout=300, trust_env=False
                )
            except httpx.HTTPError as error:
                last = error
                continue
            found: dict[str, Any] = reply.json()
            if reply.is_success:
                return found
            told = found.get("error") or {}
            error_seen = error_from_wire(
                told.get("code", "internal"), told.get("message", reply.text), told.get("field")
            )
            if isinstance(error_seen, AdapterMissing) or not error_seen.retryable:
                raise error_seen
            last = error_seen
        if isinstance(last, SamplerError):
            raise last
        raise NoReplica(f"{method} {path}: no replica of {self._discovery.description} answered")

    def close(self) -> None:
        """Say bye, end the thread. Idempotent."""
        with self._lock:
            self._is_closed = True
            worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            worker.close()


class _Worker:
    """The loop thread of a :class:`Fleet` in one process."""

    def __init__(self, discovery: Discovery, settings: ClientSettings) -> None:
        self.pid = os.getpid()
        self.client = uuid.uuid4().hex
        self.card: ModelCard | None = None
        self.dispatcher = Dispatcher(settings, self._wake)
        self._discovery = discovery
        self._settings = settings
        self._connections: dict[str, tuple[Connection, asyncio.Task[None]]] = {}
        self._refusals: dict[str, SamplerError] = {}
        self._fleet_id: str | None = None
        self._card_known = threading.Event()
        self._card_error: SamplerError | None = None
        self._inbox: deque[Group] = deque()
        self._is_awake = False
        self._is_over = False
        self._loop = _new_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="sampler-client", daemon=True)

    # -- from any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, groups: Sequence[Group]) -> None:
        """Queue groups with at most one wake-up."""
        self._inbox.extend(groups)
        if self._is_over:
            # Nothing takes them out any more.
            raise SamplerClosed(_CLOSED)
        if not self._is_awake:
            self._is_awake = True
            self.call(self._take_inbox)

    def call(self, function: Any, *arguments: Any) -> None:
        """Run something in the loop."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            raise SamplerClosed(_CLOSED) from None

    def urls(self) -> list[str]:
        """Endpoints with an open session; one at least once the card is known, if any is up."""
        return [r.url for r in list(self.dispatcher.replicas.values()) if r.is_connected]

    def wait_for_card(self) -> ModelCard:
        """Block until a replica has answered, or none will."""
        self._card_known.wait()
        if self.card is None:
            assert self._card_error is not None
            error = self._card_error
            raise type(error)(error.message, error.field)
        return self.card

    def close(self) -> None:
        """End the thread and wait for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            if threading.current_thread() is not self._thread:
                self._thread.join()

    # -- in the loop -------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()
            self._is_over = True
            # What came in since cannot be posted any more; it fails here.
            self._take_inbox()

    async def _main(self) -> None:
        watcher = asyncio.create_task(self._watch())
        ticker = asyncio.create_task(self._tick())
        stop = asyncio.create_task(self._stop.wait())
        tasks: list[asyncio.Task[Any]] = [watcher, ticker, stop]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in (watcher, ticker):
                if task.done():
                    task.result()
        except Exception as error:
            log.exception("the client's loop failed")
            self.dispatcher.fail_waiting(FleetError(f"the client's loop failed: {error}"))
        finally:
            self._take_inbox()
            self._give_up(SamplerClosed("the sampler was closed"))
            byes = [connection.say_bye() for connection, _ in self._connections.values()]
            if byes:
                await asyncio.wait([asyncio.ensure_future(bye) for bye in byes], timeout=2)
            for connection, _ in self._connections.values():
                connection.abandon()
            self.dispatcher.close()
            tasks += [task for _, task in self._connections.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        async for endpoints in self._discovery.watch():
            wanted = {endpoint.url: endpoint for endpoint in endpoints}
            for url in [u for u in self._connections if u not in wanted]:
                self._leave(url)
            for url, endpoint in wanted.items():
                if url not in self._connections:
                    self._connections[url] = self._connect(endpoint)

    def _connect(self, endpoint: Endpoint) -> tuple[Connection, asyncio.Task[None]]:
        connection = Connection(endpoint, self.client, self._settings, self.dispatcher, self)
        return connection, asyncio.create_task(connection.run())

    def _leave(self, url: str) -> None:
        connection, task = self._connections.pop(url)
        task.cancel()
        connection.abandon()
        self.dispatcher.forget(url)

    async def _tick(self) -> None:
        settings = self._settings
        while True:
            await asyncio.sleep(settings.tick)
            for replica in self.dispatcher.tick():
                log.warning("%s: no sign of life, reconnecting", replica.url)
                self._connections[replica.url][0].abort()
            if self.card is None and self._connections:
                self._judge_refusals()
            for connection, _ in self._connections.values():
                connection.wake()

    def _judge_refusals(self) -> None:
        refusals = self._refusals
        patience = self._settings.first_reply_timeout / self._settings.tick
        reasons = "; ".join(str(error) for error in refusals.values())
        if len(refusals) == len(self._connections):
            first = next(iter(refusals.values()))
            if all(isinstance(error, _HOPELESS) for error in refusals.values()):
                self._give_up(type(first)(reasons))
                return
        if self.dispatcher.ticks > patience:
            self._give_up(NoReplica(f"no replica of {self._discovery.description}: {reasons}"))

    def _give_up(self, error: SamplerError) -> None:
        if self.card is None:
            self._card_error = error
            self._card_known.set()
            self.dispatcher.fail_waiting(error)

    def _wake(self, replica: Replica) -> None:
        found = self._connections.get(replica.url)
        if found is not None:
            found[0].wake()

    def _take_inbox(self) -> None:
        self._is_awake = False
        groups: list[Group] = []
        inbox = self._inbox
        while inbox:
            groups.append(inbox.popleft())
        self.dispatcher.submit(groups)

    # -- what connections tell ---------------------------------------------------------------------

    def welcomed(self, hello: ServerHello) -> None:
        """See ``FleetWatch``."""
        if hello.fleet:
            if self._fleet_id is None:
                self._fleet_id = hello.fleet
            elif hello.fleet != self._fleet_id:
                raise FleetError(f"belongs to fleet {hello.fleet}, not {self._fleet_id}")
        self.card = hello.card
        self._card_known.set()

    def refused(self, url: str, error: SamplerError) -> None:
        """See ``FleetWatch``."""
        if str(self._refusals.get(url)) != str(error):
            log.info("%s", error)
        self._refusals[url] = error
        if self.card is None and isinstance(error, _HOPELESS):
            self._judge_refusals()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
