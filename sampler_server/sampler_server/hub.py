"""Where engine and streams meet: requests go in, deltas come out, all state on one event loop.

Two kinds of readers use it. A session (``session``) opens streams for a client and joins them again
later; code of this process reads the deltas of one input (``runs``) or fills groups with them
(``local``). The engine calls :meth:`Hub.sink` from its own thread once a step.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import BaseMismatch, EngineDead, EngineFailed, SamplerError, Unsupported
from sampler_api.frames import ABORT, ERROR, LENGTH, RUNNING, STOP, Load, ModelCard, RevisionRef
from sampler_core.delivered import end_of_delivered
from sampler_core.stops import StopMatcher

from .base_change import BaseChange
from .batches import Adapters, Batch, Counters
from .cards import model_card
from .deltas import append
from .engines.base import Delta, Engine, EngineInfo, EngineRequest
from .inbox import Inbox
from .leases import lease_adapter, let_go
from .plans import Plan, Planner
from .settings import StreamSettings
from .streams import Listener, Stream, StreamTable
from .tokenizer import ServedTokenizer

__all__ = ["Adapters", "Batch", "Hub"]

log = logging.getLogger(__name__)


class Hub:
    """One engine and its streams: made before the engine starts, ``open``ed on the loop after."""

    def __init__(
        self,
        engine: Engine,
        *,
        adapters: Adapters | None = None,
        settings: StreamSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.adapters = adapters
        self.clock = clock
        self.table = StreamTable(settings or StreamSettings())
        self.change = BaseChange()
        self.counters = Counters()
        self.tokenizer: ServedTokenizer | None = None
        self.is_draining = False
        """The replica leaves: nothing new for sessions."""
        self.is_refusing = False
        """It takes no plain HTTP requests any more either, of which some come late."""
        self.expected_length = 256.0
        """Running mean of output lengths, for credits."""
        self.local_running = 0
        self.operations: dict[str, float] = {}
        """Declared operations by name, with the time until which they may hold up the engine."""
        self.engine_error: EngineDead | None = None
        self.broken = asyncio.Event()
        """Set with ``engine_error``, when it is known that the engine does not run any more."""
        self._settings = settings or StreamSettings()
        self._inbox = Inbox(self._take)
        self._next_key = 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._planner: Planner | None = None
        self._info: EngineInfo | None = None
        self._card: ModelCard | None = None

    # -- life --------------------------------------------------------------------------------------

    def open(self, tokenizer: ServedTokenizer | None = None, model_name: str | None = None) -> None:
        """Begin to serve; on the running loop, after ``engine.start``."""
        info = self.engine.info
        self.tokenizer = tokenizer
        self._info = info
        self._planner = Planner(info, tokenizer)
        self._card = model_card(info, tokenizer, model_name, self.adapters is not None)
        self._spawn(self._keep_house())
        self._inbox.open()

    def rebase(self) -> None:
        """The engine serves another base from now on: announce it."""
        self._info = self.engine.info
        self._card = msgspec.structs.replace(self.card, base=self._info.base_digest)

    async def close(self) -> None:
        """End every stream and the hub's tasks; the engine is the caller's to close."""
        self.cancel(list(self.table.running.values()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.adapters is not None:
            await self.adapters.close()

    @property
    def is_open(self) -> bool:
        """``open`` was called."""
        return self._card is not None

    @property
    def info(self) -> EngineInfo:
        """What the engine announced; after ``open``."""
        assert self._info is not None
        return self._info

    @property
    def card(self) -> ModelCard:
        """What clients are told; after ``open``."""
        assert self._card is not None
        return self._card

    @property
    def planner(self) -> Planner:
        """Checks params against the engine; after ``open``."""
        assert self._planner is not None
        return self._planner

    # -- streams -----------------------------------------------------------------------------------

    def check_ref(self, ref: RevisionRef) -> None:
        """Raises BaseMismatch for other base weights, Unsupported for adapters without a store."""
        if ref.base != self.card.base:
            raise BaseMismatch(
                f"revision: this replica serves base {self.card.base}, "
                f"the request names {ref.base or 'none'}",
                "revision",
            )
        if ref.adapter is not None and self.adapters is None:
            raise Unsupported("revision: this replica serves no adapters", "revision")

    def add(
        self,
        batch: Batch,
        plan: Plan,
        prompt: NDArray[np.int32],
        output: NDArray[np.int32],
        seed: int | None,
        group: int,
        wants_scores: bool,
        listener: Listener,
        handle: int = 0,
        client: str = "",
        id: int = 0,  # noqa: A002
        attempt: int = 0,
        is_interactive: bool = False,
    ) -> Stream:
        """A new stream for a checked request; it goes to the engine with ``send(batch)``.

        Where nothing is left to generate it has ended when this returns, and its listener has not
        been told.
        """
        key = self._next_key
        self._next_key = key + 1
        start = len(output)
        length = len(prompt)
        total = plan.max_total(length)
        cost = length + int(min(total, max(start, self.expected_length)))
        stream = Stream(
            key, client, id, attempt, length, start, plan.k, cost, listener, handle, self.clock()
        )
        if start:
            stream.not_reproducible = seed is not None and not self.info.is_reproducible
        if plan.stops:
            assert self.tokenizer is not None
            stream.matcher = StopMatcher(
                plan.stops, self.tokenizer.decode, output.tolist(), plan.params.min_tokens
            )
        stream.stop_ids = plan.params.stop_token_ids
        stream.is_interactive = is_interactive
        self.table.add(stream)
        self.counters.started += 1
        flag, matched = RUNNING, None
        if start:
            decode = None if self.tokenizer is None else self.tokenizer.decode
            flag, matched = end_of_delivered(
                plan.params, plan.stops, output, total, self.info.eos_ids, decode
            )
        elif not total and not wants_scores:
            flag = LENGTH
        if flag != RUNNING:
            stream.matched = matched
            self._end(stream, flag)
            return stream
        batch.streams.append(stream)
        adapter = batch.ref.adapter
        batch.requests.append(
            plan.request(
                key, prompt, output, total, seed, adapter, group, wants_scores, is_interactive
            )
        )
        return stream

    def send(self, batch: Batch) -> None:
        """Hand the batch to the engine, after its adapter has been acquired."""
        if not batch.requests:
            return
        if batch.ref.adapter is None or self.engine_error is not None:
            self._submit(batch, batch.requests)
        else:
            for stream in batch.streams:
                stream.is_parked = True
            self._spawn(self._send_with_adapter(batch))

    def _submit(self, batch: Batch, requests: Sequence[EngineRequest]) -> None:
        if self.engine_error is None:
            try:
                self.engine.submit(requests)
            except EngineDead as error:
                self.die(error)
        if self.engine_error is not None:
            for stream in batch.streams:
                self.fail(stream, self.engine_error)

    def cancel(self, streams: Iterable[Stream], flag: int = ABORT) -> None:
        """End running streams with ``flag``; what the engine still makes of them is dropped."""
        keys = []
        for stream in streams:
            if stream.flag == RUNNING:
                keys.append(stream.key)
                self._end(stream, flag)
                if stream.listener is not None:
                    stream.listener.moved(stream)
        if keys:
            self.engine.cancel(keys)

    def fail(self, stream: Stream, error: SamplerError) -> None:
        """End a running stream with an error; the engine does not have it."""
        if stream.flag == RUNNING:
            stream.error = error
            self._end(stream, ERROR)
            if stream.listener is not None:
                stream.listener.moved(stream)

    def end_with(self, stream: Stream, error: SamplerError) -> None:
        """End a running stream with an error, at the engine too."""
        key = stream.key
        self.fail(stream, error)
        self.engine.cancel([key])

    def die(self, error: EngineDead) -> None:
        """The engine does not run any more: every stream ends with ``error``, and none begins."""
        if self.engine_error is None:
            self.engine_error = error
            self.broken.set()
            for stream in list(self.table.running.values()):
                self.fail(stream, error)

    @property
    def is_engine_asked(self) -> bool:
        """The engine owes an answer: some stream runs that does not wait for its adapter."""
        return any(not stream.is_parked for stream in self.table.running.values())

    def load(self) -> Load:
        """The engine's load as it goes into frames."""
        progress = self.engine.progress()
        info = self.info
        return Load(
            progress.running,
            progress.waiting,
            info.slots,
            progress.kv_tokens_used,
            info.kv_tokens,
            progress.steps,
        )

    @contextmanager
    def operation(self, name: str, limit_seconds: float) -> Iterator[None]:
        """Declare that the engine may stand still for a while, as when weights are loaded."""
        self.operations[name] = self.clock() + limit_seconds
        try:
            yield
        finally:
            self.operations.pop(name, None)

    # -- the engine's side -------------------------------------------------------------------------

    def sink(self, deltas: Sequence[Delta]) -> None:
        """Take the deltas of an engine step; from any thread."""
        self._inbox.put(deltas)

    def _take(self, delta: Delta) -> None:
        stream = self.table.running.get(delta.key)
        if stream is None:
            if isinstance(delta.error, EngineDead):
                self.die(delta.error)
            return
        try:
            self._take_one(stream, delta)
        except Exception:
            log.exception("a delta of the engine could not be taken")
            self.end_with(stream, EngineFailed("the engine's answer could not be read"))

    def _take_one(self, stream: Stream, delta: Delta) -> None:
        flag = append(stream, delta, self.clock())
        self.counters.tokens += len(delta.tokens) >> 2
        if flag != RUNNING:
            if delta.finish is None:
                # A stop string matched, of which the engine knows nothing.
                self.engine.cancel([stream.key])
            self._end(stream, flag)
        if stream.listener is not None:
            stream.listener.moved(stream)
        if isinstance(delta.error, EngineDead):
            self.die(delta.error)

    def _end(self, stream: Stream, flag: int) -> None:
        self.table.end(stream, flag, self.clock())
        stream.matcher = None
        self.counters.ended[flag] += 1
        if flag in (STOP, LENGTH):
            length = stream.start + len(stream.columns)
            self.expected_length += 0.05 * (length - self.expected_length)
        let_go(self.adapters, stream)

    # -- work in the background --------------------------------------------------------------------

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_with_adapter(self, batch: Batch) -> None:
        assert self.adapters is not None
        error: SamplerError
        try:
            requests = await lease_adapter(self.adapters, batch)
            if requests:
                self._submit(batch, requests)
            return
        except SamplerError as raised:
            error = raised
        except Exception:
            log.exception("adapter %s could not be loaded", batch.ref.adapter)
            error = EngineFailed(f"adapter {batch.ref.adapter} could not be loaded")
        for stream in batch.streams:
            self.fail(stream, error)

    async def _keep_house(self) -> None:
        settings = self._settings
        interval = max(0.01, min(0.5, settings.lease_seconds / 4, settings.keep_seconds / 4))
        while True:
            await asyncio.sleep(interval)
            self.keep_house()

    def keep_house(self) -> None:
        """Abort orphans whose lease has ended, drop columns that nobody took; called in turns."""
        aborted, dropped = self.table.expire(self.clock())
        self.cancel(aborted)
        for stream in aborted:
            self.table.forget(stream)
        if aborted:
            log.info("%d sequences were aborted: their client did not come back", len(aborted))
        for stream in dropped:
            if stream.drop() and stream.listener is not None:
                stream.listener.moved(stream)
