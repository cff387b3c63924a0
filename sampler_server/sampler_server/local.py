"""A sampler's backend in this process: an engine and its hub on a thread of their own, no HTTP."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from sampler_api.errors import EngineDead, SamplerClosed, SamplerError, Unsupported
from sampler_api.fleet import WeightsUpdate, WeightsUpdated
from sampler_api.frames import (
    ABORT,
    HANDED_OVER,
    LENGTH,
    RUNNING,
    STOP,
    ModelCard,
    RevisionRef,
)
from sampler_api.results import Segment
from sampler_api.revisions import Revision
from sampler_core.checked_weights import BaseLayout
from sampler_core.groups import ChildWork, Group, PromptScores

from .batches import Adapters, Batch
from .engines.base import Engine
from .hub import Hub
from .plans import Plan, check_output, check_prompt
from .streams import Stream
from .suspended import Suspended
from .tokenizer import served_tokenizer
from .watchdog import watch
from .weights import WeightUpdates

__all__ = ["STALL_SECONDS", "LocalBackend", "Watched"]

log = logging.getLogger(__name__)

_REPLICA = "local"
_ENDED = {
    STOP: "finished",
    LENGTH: "finished",
    ABORT: "cancelled",
    HANDED_OVER: "weights_replaced",
}
_EMPTY = np.empty(0, np.int32)

T = TypeVar("T")

STALL_SECONDS = 60.0
"""Longer than a server's: no supervisor makes another engine after a false alarm."""


Watched = Callable[[Hub, Callable[[str], None]], Coroutine[Any, Any, None]]
"""``watchdog.watch`` with its limits."""

_WATCHED: Watched = partial(watch, stall_seconds=STALL_SECONDS)


class _Reader:
    """Fills the children of one group (``Listener``); a stream's handle is the child's index."""

    __slots__ = ("_group", "_owner")

    def __init__(self, owner: "LocalBackend", group: Group) -> None:
        self._owner = owner
        self._group = group

    def moved(self, stream: Stream) -> None:
        group = self._group
        if stream.scores is not None and group.prompt_scores is None:
            scores = stream.scores
            group.prompt_scores = PromptScores(
                scores.k, scores.logprobs, scores.top_ids, scores.top_logprobs
            )
        if stream.flag == RUNNING:
            return
        child = group.children[stream.handle]
        self._owner.ended(child)
        start = len(child.columns)
        if len(stream.columns):
            child.columns.extend(stream.columns)
        code = stream.error.code if stream.error is not None else "engine_failed"
        if stream.flag == HANDED_OVER and not len(stream.columns):
            self._owner.suspended.add(group)
            return
        child.segments = (
            *child.segments,
            Segment(
                _REPLICA,
                Revision(group.ref.base, group.ref.adapter),
                start,
                start + len(stream.columns),
                _ENDED.get(stream.flag, code),
                not stream.not_reproducible,
            ),
        )
        if stream.flag == HANDED_OVER:
            self._owner.suspended.add(group)
        else:
            group.end_child(child, stream.flag, matched=stream.matched, error=stream.error)


class _Calls:
    """Implements ``weights.InFlightReaders`` for the calls of this process."""

    def __init__(self, owner: "LocalBackend") -> None:
        self._owner = owner

    def hold(self) -> None:
        self._owner.suspended.is_on = True

    @property
    def is_waiting(self) -> bool:
        return False

    async def hand_over(self) -> None:
        self._owner.hand_over()

    async def flush(self) -> None: ...

    async def release(self, previous: str, are_continued: bool) -> None:
        self._owner.resume(previous)


class LocalBackend:
    """Implements ``sampler_core.groups.Backend`` over an engine that ``make_engine`` builds.

    ``adapters`` makes the adapter store; ``tokenizer_files`` are read while the engine loads;
    ``layout`` is that of the base's files; ``watched`` looks whether the engine steps and calls
    back, once, with why it does not: then all
    calls end with EngineDead. The constructor blocks until the engine serves. Raises ModelInvalid
    and what the engine's start raises.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        tokenizer_files: Callable[[], Mapping[str, bytes]] = dict,
        adapters: Callable[[Hub], Adapters] | None = None,
        model_name: str | None = None,
        watched: Watched = _WATCHED,
        layout: Callable[[], BaseLayout | None] = lambda: None,
    ) -> None:
        self._engine = make_engine()
        self._hub = Hub(self._engine)
        self.suspended = Suspended()
        self._updates = WeightUpdates(self._hub, _Calls(self), layout)
        self._streams: dict[ChildWork, Stream] = {}
        self._is_closed = False
        self._is_stalled = False
        self._watched = watched
        self._watcher: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._files: Mapping[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sampler-hub", daemon=True)
        self._thread.start()
        try:
            self._await(self._start(tokenizer_files, adapters, model_name))
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _start(
        self,
        tokenizer_files: Callable[[], Mapping[str, bytes]],
        adapters: Callable[[Hub], Adapters] | None,
        model_name: str | None,
    ) -> None:
        start = asyncio.to_thread(self._engine.start, self._hub.sink)
        self._files, _ = await asyncio.gather(asyncio.to_thread(tokenizer_files), start)
        tokenizer = await asyncio.to_thread(served_tokenizer, self._files)
        if adapters is not None:
            self._hub.adapters = adapters(self._hub)
        self._hub.open(tokenizer, model_name)
        self._watcher = asyncio.create_task(self._watched(self._hub, self._stalled))

    def _stalled(self, line: str) -> None:
        log.error("%s", line)
        self._is_stalled = True
        # Nobody waits for this thread: it ends when the engine moves again, if ever.
        threading.Thread(target=self._engine.close, name="sampler-end", daemon=True).start()
        self._hub.die(EngineDead(line))

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _ask(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Wait for ``work`` on the hub's loop. Raises SamplerClosed."""
        with self._lock:
            if self._is_closed:
                raise SamplerClosed("the sampler is closed")
            future = asyncio.run_coroutine_threadsafe(work(*args), self._loop)
        return future.result()

    def _call(self, function: Callable[..., None], *args: object) -> None:
        """Run ``function`` on the hub's loop. Raises SamplerClosed."""
        with self._lock:
            if self._is_closed:
                raise SamplerClosed("the sampler is closed")
            self._loop.call_soon_threadsafe(function, *args)

    # -- Backend -----------------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The hub, for code that runs on its loop."""
        return self._hub

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The hub's loop."""
        return self._loop

    @property
    def is_ready(self) -> bool:
        """``card`` would not block."""
        return self._hub.is_open

    def card(self) -> ModelCard:
        """What is served."""
        return self._hub.card

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The tokenizer's files by name; empty when the model has none."""
        return self._files

    def submit(self, groups: Sequence[Group]) -> None:
        """Run groups; never blocks."""
        try:
            self._call(self._submit, list(groups))
        except SamplerClosed as error:
            for group in groups:
                group.fail(error)

    def cancel(self, groups: Sequence[Group]) -> None:
        """End what is unfinished with ABORT; its tokens so far stay in the columns."""
        try:
            self._call(self._cancel, list(groups))
        except SamplerClosed:
            log.debug("cancelled after close: everything has ended")

    def create_adapter(self, config: Mapping[str, object]) -> str:
        """Make the zero adapter of a PEFT config; returns its digest. Blocks."""
        return self._ask(self._create, config)

    def ensure_adapter(self, ref: RevisionRef) -> None:
        """Make sure that the engine can serve ``ref``; blocks. Raises AdapterError."""
        if ref.adapter is not None:
            self._ask(self._ensure, ref)

    def update_weights(self, wanted: WeightsUpdate) -> WeightsUpdated:
        """Replace the base's weights; see ``WeightUpdates.update``. Blocks."""
        return self._ask(self._updates.update, wanted)

    def close(self) -> None:
        """End everything; unfinished groups fail with SamplerClosed. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._await(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if not self._is_stalled:
            self._engine.close()

    # -- on the loop -------------------------------------------------------------------------------

    def ended(self, child: ChildWork) -> None:
        """A child's stream has ended."""
        self._streams.pop(child, None)

    def _submit(self, groups: list[Group]) -> None:
        if self.suspended.is_on:
            for group in groups:
                self.suspended.add(group)
            return
        batches: dict[RevisionRef, Batch] = {}
        plans: dict[int, Plan] = {}
        for group in groups:
            self.suspended.rebase(group, self._hub.card.base)
            try:
                plan = plans.get(id(group.params))
                if plan is None:
                    plan = plans[id(group.params)] = self._hub.planner.of(group.params)
                self._submit_one(group, plan, batches)
            except SamplerError as error:
                group.fail(error)
            except Exception:
                log.exception("a group could not be submitted")
                group.fail(SamplerError("the sampler failed on this input; its log says why"))
        for batch in batches.values():
            self._hub.send(batch)

    def _submit_one(self, group: Group, plan: Plan, batches: dict[RevisionRef, Batch]) -> None:
        hub = self._hub
        hub.check_ref(group.ref)
        check_prompt(group.prompt_ids, hub.info)
        prompt = np.ascontiguousarray(group.prompt_ids, np.int32)
        batch = batches.get(group.ref)
        if batch is None:
            batch = batches[group.ref] = Batch(group.ref)
        reader = _Reader(self, group)
        for child in group.children:
            if child.flag != RUNNING:
                continue
            output = _EMPTY
            if len(child.columns):
                output = child.columns.token_ids.copy()
                check_output(output, len(prompt), hub.info)
            seed = None if child.seed is None else child.seed & 0xFFFFFFFFFFFFFFFF
            wants_scores = plan.wants_scores and child.k == 0 and not len(output)
            stream = hub.add(
                batch, plan, prompt, output, seed, group.key, wants_scores, reader, child.k
            )
            self._streams[child] = stream
            if stream.flag != RUNNING:
                reader.moved(stream)

    def _cancel(self, groups: list[Group]) -> None:
        children = [child for group in groups for child in group.children]
        streams = [s for child in children if (s := self._streams.get(child)) is not None]
        self._hub.cancel(streams)
        self.suspended.cancel(groups)

    def hand_over(self) -> None:
        """Stop what runs where it is; it waits for the end of a change."""
        self._hub.cancel(list(self._streams.values()), HANDED_OVER)

    def resume(self, previous: str) -> None:
        """Go on under the base that is served now."""
        self._submit(self.suspended.end(previous, self._hub.card.base))

    async def _create(self, config: Mapping[str, object]) -> str:
        adapters = self._hub.adapters
        if adapters is None:
            raise Unsupported("adapter: this sampler serves no adapters", "adapter")
        return await adapters.create(config)

    async def _ensure(self, ref: RevisionRef) -> None:
        self._hub.check_ref(ref)
        adapters = self._hub.adapters
        assert adapters is not None
        assert ref.adapter is not None
        await adapters.acquire(ref)
        adapters.release(ref.adapter)

    async def _end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        closed = SamplerClosed("the sampler was closed")
        for stream in list(self._streams.values()):
            self._hub.end_with(stream, closed)
        self.suspended.fail(closed)
        await self._updates.close()
        await self._hub.close()
