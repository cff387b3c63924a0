"""The thread of a fleet's client: one event loop, a connection per endpoint, one dispatcher.

Callers hand groups over through a queue with one wake-up for many, so that a call costs the loop's
thread no task, no future and no lock per request.
"""

import asyncio
import concurrent.futures
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from sampler_api.errors import (
    FleetError,
    Forbidden,
    NoReplica,
    ProtocolError,
    SamplerClosed,
    SamplerError,
    Unauthorized,
)
from sampler_api.frames import ModelCard, ServerHello
from sampler_core.groups import Group
from sampler_core.loops import new_event_loop

from .connection import Connection
from .discovery import Discovery, Endpoint
from .dispatcher import Dispatcher
from .replica import Replica
from .settings import ClientSettings

__all__ = ["CLOSED", "Worker"]

log = logging.getLogger("sampler_client")

T = TypeVar("T")

CLOSED = "the sampler was closed, or its loop failed as the log says; make a new one"
_HOPELESS = (Unauthorized, Forbidden, ProtocolError)


class Worker:
    """The loop thread of a :class:`~sampler_client.fleet.Fleet` in one process."""

    def __init__(self, discovery: Discovery, settings: ClientSettings) -> None:
        self.pid = os.getpid()
        self.client = uuid.uuid4().hex
        self.card: ModelCard | None = None
        self.dispatcher = Dispatcher(settings, self._wake)
        self._discovery = discovery
        self._settings = settings
        self._connections: dict[str, tuple[Connection, asyncio.Task[None]]] = {}
        self._refusals: dict[str, SamplerError] = {}
        self._fleet = discovery.fleet
        self._listed: dict[str, Endpoint] = {}
        self._siblings: dict[str, tuple[int, ...]] = {}
        """Further ports by the endpoint whose hello has named them."""
        self._served: dict[str, str] = {}
        """Incarnations that were ever met, with the base that they had last."""
        self._card_known = threading.Event()
        self._card_error: SamplerError | None = None
        self._inbox: deque[Group] = deque()
        self._is_awake = False
        self._is_over = False
        self._loop = new_event_loop()
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
            raise SamplerClosed(CLOSED)
        if not self._is_awake:
            self._is_awake = True
            self.call(self._take_inbox)

    def call(self, function: Any, *arguments: Any) -> None:
        """Run something in the loop."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            raise SamplerClosed(CLOSED) from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop and wait for it. Raises SamplerClosed when the loop ends."""
        try:
            asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise SamplerClosed(CLOSED) from None
        if self._is_over:
            # It may never begin.
            self._thread.join()
            work.close()
            raise SamplerClosed(CLOSED)
        try:
            return asked.result()
        except concurrent.futures.CancelledError:
            raise SamplerClosed(CLOSED) from None
        except BaseException:
            asked.cancel()
            raise

    def connected_urls(self) -> list[str]:
        """Endpoints with an open session. Raises NoReplica when there is none."""
        replicas = list(self.dispatcher.replicas.values())
        urls = [r.url for r in replicas if r.is_connected and r.is_listed]
        if not urls:
            reasons = "; ".join(map(str, self._refusals.values())) or "the session was cut"
            raise NoReplica(f"no replica of {self._discovery.description} is connected: {reasons}")
        return urls

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
            self._is_over = True
            # What callers have begun meanwhile, and what came in: both fail here.
            self._loop.run_until_complete(_cancel_others())
            self._loop.close()
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
            await _cancel_others()

    async def _watch(self) -> None:
        async for endpoints in self._discovery.watch():
            self._listed = {endpoint.url: endpoint for endpoint in endpoints}
            self._follow()

    def _wanted(self) -> dict[str, Endpoint]:
        wanted = dict(self._listed)
        for url, endpoint in self._listed.items():
            if endpoint.has_siblings:
                siblings = map(endpoint.sibling, self._siblings.get(url, ()))
                wanted |= {sibling.url: sibling for sibling in siblings}
        return wanted

    def _follow(self) -> None:
        """Connect to whatever is in the fleet, and let go of the rest as soon as that may be."""
        wanted = self._wanted()
        for url, (connection, task) in list(self._connections.items()):
            is_over = task.done() if url in wanted else task.done() or connection.let_go()
            if is_over:
                self._leave(url)
        for url, endpoint in wanted.items():
            known = self._connections.get(url)
            if known is not None:
                known[0].keep()
            else:
                self._connections[url] = self._connect(endpoint)
        self._siblings = {url: ports for url, ports in self._siblings.items() if url in wanted}

    def _connect(self, endpoint: Endpoint) -> tuple[Connection, asyncio.Task[None]]:
        self.dispatcher.expect(endpoint.url)
        connection = Connection(
            endpoint,
            self.client,
            self._settings,
            self.dispatcher,
            self,
            self._discovery.certificate_name,
        )
        return connection, asyncio.create_task(connection.run())

    def _leave(self, url: str) -> None:
        connection, task = self._connections.pop(url)
        self._refusals.pop(url, None)
        task.cancel()
        connection.abandon()
        self.dispatcher.forget(url)
        self.review_card()

    def review_card(self) -> None:
        """New calls are for a base that is served, the one that was met last."""
        usable = [r for r in self.dispatcher.replicas.values() if r.is_usable]
        if self.card is None or not usable:
            return
        if all(r.hello.card.base != self.card.base for r in usable):
            self.card = max(usable, key=lambda replica: replica.met).hello.card

    async def _tick(self) -> None:
        settings = self._settings
        while True:
            await asyncio.sleep(settings.tick)
            for replica in self.dispatcher.tick():
                log.warning("%s: no sign of life, reconnecting", replica.url)
                self._connections[replica.url][0].abort()
            if self.card is None:
                self._judge_refusals()
            self._follow()
            self.review_card()
            for connection, _ in self._connections.values():
                connection.wake()

    def _judge_refusals(self) -> None:
        refusals = self._refusals
        patience = self._settings.first_reply_timeout / self._settings.tick
        reasons = "; ".join(str(error) for error in refusals.values())
        if refusals and len(refusals) == len(self._connections):
            first = next(iter(refusals.values()))
            if all(isinstance(error, _HOPELESS) for error in refusals.values()):
                self._give_up(type(first)(reasons))
                return
        if self.dispatcher.ticks > patience:
            told = f"no replica of {self._discovery.description}: {reasons}"
            self._give_up(NoReplica(told.removesuffix(": ")))

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

    def welcomed(self, url: str, hello: ServerHello) -> None:
        """See ``FleetWatch``."""
        # Without its uid: who deletes a fleet and makes it anew wants that one sampled from.
        fleet = hello.fleet.rpartition("/")[0]
        if fleet:
            self._fleet = self._fleet or fleet
            if fleet != self._fleet:
                raise FleetError(
                    f"{url}: belongs to fleet {fleet}, not {self._fleet}: left alone for now"
                )
        if hello.siblings != self._siblings.get(url, ()):
            self._siblings[url] = hello.siblings
            self._follow()
        self._refusals.pop(url, None)
        # One that comes back is not news: another may have been met since.
        if self.card is None or self._served.get(hello.incarnation) != hello.card.base:
            self.card = hello.card
        self._served[hello.incarnation] = hello.card.base
        self._card_known.set()

    def refused(self, url: str, error: SamplerError) -> None:
        """See ``FleetWatch``."""
        if str(self._refusals.get(url)) != str(error):
            # Not its subclasses: one that does not answer may be about to start, or to leave.
            is_refusal = type(error) is FleetError
            log.log(logging.WARNING if is_refusal else logging.INFO, "%s", error)
        self._refusals[url] = error
        self.dispatcher.unreachable(url)
        if self.card is None and isinstance(error, _HOPELESS):
            self._judge_refusals()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
