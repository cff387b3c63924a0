"""Deltas of one input for code in this process, as an async iterator::

    async with run(hub, prompt_ids, params, seeds=[7, 8]) as pieces:
        async for piece in pieces:
            piece.child, piece.columns.token_ids, piece.flag

What its reader leaves behind is cancelled at the engine.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.columns import Columns
from sampler_api.errors import Busy, Draining, SamplerError
from sampler_api.frames import RUNNING, RevisionRef
from sampler_api.params import SamplingParams

from .batches import Batch
from .engines.base import PromptScores
from .hub import Hub
from .plans import Plan, check_output, check_prompt
from .streams import Stream

__all__ = ["Piece", "Run", "run"]

_EMPTY = np.empty(0, np.int32)
_LOCAL_PER_SLOT = 4


def run(
    hub: Hub,
    prompt_ids: NDArray[np.int32],
    params: SamplingParams,
    *,
    seeds: Sequence[int | None] = (None,),
    ref: RevisionRef | None = None,
    output_ids: NDArray[np.int32] | None = None,
    is_interactive: bool = False,
) -> "Run":
    """One input with a child per seed, as an async iterator of :class:`Piece`.

    ``params.seed`` and ``params.num_samples`` are ignored in favour of ``seeds``. ``ref=None``
    is the base. ``is_interactive`` (a person reads along) gives every piece at once; else small
    pieces are gathered. Leaving the ``async with`` cancels at the engine what is unfinished.
    Raises InvalidRequest, Unsupported, BaseMismatch, RevisionGone, Draining, Busy before anything
    runs; errors of the engine come as pieces.
    """
    if hub.is_refusing:
        raise Draining("the replica is draining; ask another one")
    hub.change.check_request()
    if hub.local_running + len(seeds) > max(_LOCAL_PER_SLOT * hub.info.slots, len(seeds)):
        raise Busy(f"{hub.local_running} sequences are already running or waiting here")
    ref = ref or RevisionRef(hub.card.base)
    hub.check_ref(ref)
    plan = hub.planner.of(params)
    output = _EMPTY if output_ids is None else output_ids
    check_prompt(prompt_ids, hub.info)
    check_output(output, len(prompt_ids), hub.info)
    return Run(hub, plan, prompt_ids, output, list(seeds), ref, is_interactive)


class Piece(msgspec.Struct):
    """What is new of one child: ``columns`` holds the new tokens only, and may be empty.

    ``flag`` is RUNNING until the child's last piece, then STOP, LENGTH, ABORT or ERROR (``error``
    says which; a drain that does not wait any longer ends with ABORT). ``matched`` is the stop
    string or stop id. ``scores`` comes once, with child 0.
    """

    child: int
    columns: Columns
    flag: int = RUNNING
    matched: str | int | None = None
    error: SamplerError | None = None
    scores: PromptScores | None = None


class Run:
    """The pieces of one input; made by ``run``. Runs only inside ``async with``, and once.

    A slow reader gets fewer and larger pieces; the engine never waits for it.
    """

    def __init__(
        self,
        hub: Hub,
        plan: Plan,
        prompt: NDArray[np.int32],
        output: NDArray[np.int32],
        seeds: list[int | None],
        ref: RevisionRef,
        is_interactive: bool,
    ) -> None:
        self._hub = hub
        self._plan = plan
        self._prompt = prompt
        self._output = output
        self._seeds = seeds
        self._ref = ref
        self._is_interactive = is_interactive
        self._streams: list[Stream] = []
        # Children with news, in the order in which they got it.
        self._news: dict[int, Stream] = {}
        self._wake = asyncio.Event()
        self._left = len(seeds)

    async def __aenter__(self) -> "Run":
        hub = self._hub
        hub.local_running += len(self._seeds)
        batch = Batch(self._ref)
        group = hash(self._prompt.tobytes())
        for child, seed in enumerate(self._seeds):
            wants_scores = self._plan.wants_scores and child == 0 and not len(self._output)
            stream = hub.add(
                batch,
                self._plan,
                self._prompt,
                self._output,
                seed,
                group,
                wants_scores,
                self,
                child,
                is_interactive=self._is_interactive,
            )
            self._streams.append(stream)
            if stream.flag != RUNNING:
                self.moved(stream)
        hub.send(batch)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hub.local_running -= len(self._seeds)
        for stream in self._streams:
            stream.listener = None
        self._hub.cancel(self._streams)

    def moved(self, stream: Stream) -> None:
        """A stream has news (``Listener``)."""
        self._news[stream.handle] = stream
        if (
            self._is_interactive
            or stream.flag != RUNNING
            or len(stream.columns) - stream.sent >= 32
        ):
            self._wake.set()

    def __aiter__(self) -> "Run":
        return self

    async def __anext__(self) -> Piece:
        if self._left == 0:
            raise StopAsyncIteration
        if not self._news or not self._wake.is_set():
            await self._wake.wait()
        child = next(iter(self._news))
        stream = self._news.pop(child)
        if not self._news:
            self._wake.clear()
        piece = Piece(child, _slice(stream.columns, stream.sent), stream.flag)
        stream.sent = len(stream.columns)
        if stream.scores is not None and not stream.scores_sent:
            stream.scores_sent = True
            piece.scores = stream.scores
        if stream.flag != RUNNING:
            piece.matched, piece.error = stream.matched, stream.error
            self._left -= 1
        return piece


def _slice(columns: Columns, start: int) -> Columns:
    new = Columns(columns.k)
    at = start * 4
    new.tokens = columns.tokens[at:]
    new.logprobs = columns.logprobs[at:]
    new.top_ids = columns.top_ids[at * columns.k :]
    new.top_logprobs = columns.top_logprobs[at * columns.k :]
    return new
