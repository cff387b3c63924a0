"""Where engine and streams meet: requests go in, deltas come out, all state on one event loop.

Two kinds of readers use it. A session (``session``) opens streams for a client and joins them again
later; code of this process — the HTTP routes, the in-process sampler — asks :meth:`Hub.run` for the
deltas of one input::

    async with hub.run(prompt_ids, params, seeds=[7, 8]) as pieces:
        async for piece in pieces:
            piece.child, piece.columns.token_ids, piece.flag

The engine calls :meth:`Hub.sink` from its own thread once a step; that costs one wake-up of the
loop, however many sequences have moved.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sampler_api.columns import Columns
from sampler_api.errors import (
    BaseMismatch,
    Busy,
    Draining,
    EngineDead,
    EngineFailed,
    SamplerError,
    UnknownRequest,
    Unsupported,
)
from sampler_api.frames import (
    ABORT,
    ERROR,
    LENGTH,
    RUNNING,
    STOP,
    Load,
    ModelCard,
    RevisionRef,
)
from sampler_api.params import SamplingParams
from sampler_core.stops import StopMatcher

from .batches import Adapters, Batch, Counters
from .cards import model_card
from .delivered import end_of_delivered
from .deltas import append
from .engines.base import Delta, Engine, EngineInfo, EngineRequest
from .plans import Plan, Planner, check_output, check_prompt
from .runs import Run
from .settings import StreamSettings
from .streams import Lease, Listener, Stream, StreamTable
from .tokenizer import ServedTokenizer

__all__ = ["Adapters", "Batch", "Hub"]

log = logging.getLogger(__name__)

_EMPTY = np.empty(0, np.int32)
_LOCAL_PER_SLOT = 4


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
        self.counters = Counters()
        self.tokenizer: ServedTokenizer | None = None
        self.is_draining = False
        self.expected_length = 256.0
        """Running mean of output lengths, for credits."""
        self.local_running = 0
        self.operations: dict[str, float] = {}
        """Declared operations by name, with the time until which they may hold up the engine."""
        self.engine_error: EngineDead | None = None
        self.broken = asyncio.Event()
        """Set with ``engine_error`` when the engine has said that it does not run any more."""
        self._settings = settings or StreamSettings()
        self._inbox: deque[Sequence[Delta]] = deque()
        self._is_woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
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
        self._loop = asyncio.get_running_loop()
        self._spawn(self._keep_house())
        if self._inbox:
            self._take()

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

    # -- requests of this process ------------------------------------------------------------------

    def run(
        self,
        prompt_ids: NDArray[np.int32],
        params: SamplingParams,
        *,
        seeds: Sequence[int | None] = (None,),
        ref: RevisionRef | None = None,
        output_ids: NDArray[np.int32] | None = None,
        is_interactive: bool = False,
    ) -> Run:
        """One input with a child per seed, as an async iterator of :class:`~.runs.Piece`.

        ``params.seed`` and ``params.num_samples`` are ignored in favour of ``seeds``. ``ref=None``
        is the base. ``is_interactive`` (a person reads along) gives every piece at once; else small
        pieces are gathered. Leaving the ``async with`` cancels at the engine what is unfinished.
        Raises InvalidRequest, Unsupported, BaseMismatch, Draining, Busy before anything runs;
        errors of the engine come as pieces.
        """
        if self.is_draining:
            raise Draining("the replica is draining; ask another one")
        if self.local_running + len(seeds) > max(_LOCAL_PER_SLOT * self.info.slots, len(seeds)):
            raise Busy(f"{self.local_running} sequences are already running or waiting here")
        ref = ref or RevisionRef(self.card.base)
        self.check_ref(ref)
        plan = self.planner.of(params)
        output = _EMPTY if output_ids is None else output_ids
        check_prompt(prompt_ids, self.info)
        check_output(output, len(prompt_ids), self.info)
        return Run(self, plan, prompt_ids, output, list(seeds), ref, is_interactive)

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
        batch.requests.append(
            EngineRequest(
                key=key,
                prompt_ids=prompt,
                output_ids=output,
                params=plan.params,
                max_total=total,
                seed=seed,
                adapter=batch.ref.adapter,
                group=group,
                bad_words=plan.bad_words,
                want_prompt_logprobs=wants_scores,
            )
        )
        return stream

    def send(self, batch: Batch) -> None:
        """Hand the batch to the engine, after its adapter has been acquired."""
        if not batch.requests:
            return
        if batch.ref.adapter is None:
            self.engine.submit(batch.requests)
        else:
            for stream in batch.streams:
                stream.is_parked = True
            self._spawn(self._send_with_adapter(batch))

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
        self._inbox.append(deltas)
        if not self._is_woken and self._loop is not None:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                log.debug("deltas after the loop was closed")

    def _take(self) -> None:
        # Cleared first: what the engine appends from here on wakes the loop again.
        self._is_woken = False
        inbox = self._inbox
        running = self.table.running
        now = self.clock()
        while inbox:
            for delta in inbox.popleft():
                stream = running.get(delta.key)
                if stream is None:
                    continue
                try:
                    self._take_one(stream, delta, now)
                except Exception:
                    log.exception("a delta of the engine could not be taken")
                    self.end_with(stream, EngineFailed("the engine's answer could not be read"))

    def _take_one(self, stream: Stream, delta: Delta, now: float) -> None:
        flag = append(stream, delta, now)
        self.counters.tokens += len(delta.tokens) >> 2
        if flag != RUNNING:
            if delta.finish is None:
                # A stop string matched, of which the engine knows nothing.
                self.engine.cancel([stream.key])
            elif isinstance(delta.error, EngineDead) and self.engine_error is None:
                self.engine_error = delta.error
                self.broken.set()
            self._end(stream, flag)
        if stream.listener is not None:
            stream.listener.moved(stream)

    def _end(self, stream: Stream, flag: int) -> None:
        self.table.end(stream, flag, self.clock())
        stream.matcher = None
        self.counters.ended[flag] += 1
        if flag in (STOP, LENGTH):
            length = stream.start + len(stream.columns)
            self.expected_length += 0.05 * (length - self.expected_length)
        lease = stream.lease
        if lease is not None:
            stream.lease = None
            lease.count -= 1
            if lease.count == 0 and self.adapters is not None:
                self.adapters.release(lease.digest)

    # -- work in the background --------------------------------------------------------------------

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_with_adapter(self, batch: Batch) -> None:
        adapters, digest = self.adapters, batch.ref.adapter
        assert adapters is not None
        assert digest is not None
        try:
            await adapters.acquire(batch.ref)
        except SamplerError as error:
            for stream in batch.streams:
                self.fail(stream, error)
            return
        except Exception:
            log.exception("adapter %s could not be loaded", digest)
            for stream in batch.streams:
                self.fail(stream, EngineFailed(f"adapter {digest} could not be loaded"))
            return
        alive = [
            (stream, request)
            for stream, request in zip(batch.streams, batch.requests, strict=True)
            if stream.flag == RUNNING
        ]
        if not alive:
            adapters.release(digest)
            return
        lease = Lease(digest, len(alive))
        for stream, _ in alive:
            stream.lease = lease
            stream.is_parked = False
        self.engine.submit([request for _, request in alive])

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
            self._drop(stream)

    @staticmethod
    def _drop(stream: Stream) -> None:
        """Complete columns that nobody took for too long; a slow reader is told to resume."""
        stream.columns = Columns(stream.k)
        if stream.listener is not None and not stream.is_told:
            stream.flag = ERROR
            stream.matched = None
            stream.sent = 0
            stream.error = UnknownRequest("the columns were dropped: they waited too long")
            stream.listener.moved(stream)
