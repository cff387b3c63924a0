"""One call of a sampler: the groups it waits for, and the responses it makes of them.

A call is completed from the backend's thread and waited for from a caller's thread or event loop.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sampler_api.columns import Chunks
from sampler_api.errors import EngineFailed, SamplerError
from sampler_api.frames import REASON_OF_FLAG
from sampler_api.logprobs import LogprobRow, LogprobRows
from sampler_api.results import (
    Responses,
    SampledSequence,
    SampleResponse,
    SequenceView,
    StopReason,
    Usage,
)
from sampler_api.revisions import Revision

from .groups import ChildWork, Group

__all__ = [
    "Call",
    "LoopNotifier",
    "errors_of",
    "failed_response",
    "progress_bar",
    "raise_first",
    "respond",
]


class Call:
    """Counts groups down; ``on_complete`` runs once, after the last of the expected ones."""

    __slots__ = ("_expected", "_on_complete", "done")

    def __init__(self, on_complete: Callable[[], None]) -> None:
        self._expected = -1
        self._on_complete = on_complete
        self.done = 0

    def expect(self, number: int) -> None:
        """Say how many groups there are, before they are submitted."""
        self._expected = number
        if number == 0:
            self._on_complete()

    def group_done(self, group: Group) -> None:
        """One group has ended; called once a group, always from one thread."""
        self.done += 1
        if self.done == self._expected:
            self._on_complete()


class LoopNotifier:
    """Resolves futures of one event loop from another thread, many with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._ready: deque[asyncio.Future[None]] = deque()
        self._is_awake = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "LoopNotifier":
        """The notifier of a loop."""
        found = _notifiers.get(loop)
        if found is None:
            with _notifiers_lock:
                found = _notifiers.setdefault(loop, cls(loop))
        return found

    def resolve(self, future: "asyncio.Future[None]") -> None:
        """Set the future's result in its own loop; from any thread."""
        self._ready.append(future)
        if not self._is_awake:
            self._is_awake = True
            loop = self._loop()
            if loop is None:
                return
            try:
                loop.call_soon_threadsafe(self._run)
            except RuntimeError:
                # The caller's loop has been closed: nobody waits any more.
                self._ready.clear()

    def _run(self) -> None:
        self._is_awake = False
        ready = self._ready
        while ready:
            future = ready.popleft()
            if not future.done():
                future.set_result(None)


_notifiers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopNotifier]"
_notifiers = weakref.WeakKeyDictionary()
_notifiers_lock = threading.Lock()


def respond(group: Group, view: SequenceView, revision: Revision) -> SampleResponse:
    """The response of a group whose children have all ended."""
    sequences = [_sequence(child, view, revision) for child in group.children]
    tokens = sum([len(sequence.token_ids) for sequence in sequences])
    segments = sum([len(child.segments) for child in group.children])
    prompt = group.prompt_ids
    response = SampleResponse(sequences, prompt, usage=Usage(len(prompt), tokens, segments))
    scores = group.prompt_scores
    if scores is not None:
        response.prompt_logprobs = [None, *scores.logprobs[1:].tolist()]
        if scores.k:
            ids, values = scores.top_ids.tolist(), scores.top_logprobs.tolist()
            top: list[LogprobRow | None] = [
                list(zip(row, row_values, strict=True))
                for row, row_values in zip(ids, values, strict=True)
            ]
            top[0] = None
            response.topk_prompt_logprobs = top
    return response


def _revision_of(child: ChildWork, of_call: Revision) -> Revision:
    """That of the call, unless its weights went away and what was unfinished began anew."""
    ref = child.group.ref
    if ref.base == of_call.base:
        return of_call
    last = child.segments[-1].revision if child.segments else None
    return last or Revision(ref.base, ref.adapter)


def _sequence(child: ChildWork, view: SequenceView, revision: Revision) -> SampledSequence:
    columns = child.columns
    reason: StopReason = REASON_OF_FLAG[child.flag]
    try:
        ids, rows = columns.arrays()
    except ValueError:
        # A missing logprob is an error, never a number.
        ids, rows = columns.token_ids, LogprobRows(np.empty(0, np.int32), np.empty(0, np.float32))
        reason = "error"
        child.error = EngineFailed(
            f"logprobs: not every one of {len(columns)} tokens came with its {columns.k}"
        )
    return SampledSequence(
        reason,
        ids,
        rows,
        revision=_revision_of(child, revision),
        segments=child.segments,
        stop_matched=child.matched,
        error=child.error,
        view=view,
    )


def failed_response(error: SamplerError, number: int) -> SampleResponse:
    """The response of an input that was refused before it was sent."""
    sequences = [
        SampledSequence("error", Chunks().token_ids, None, None, None, error=error)
        for _ in range(number)
    ]
    return SampleResponse(sequences=sequences)


def raise_first(errors: Mapping[int, SamplerError], responses: Responses) -> None:
    """Raise the error of the first input that failed, carrying everything that the call has."""
    if not errors:
        return
    index = min(errors)
    error = errors[index]
    error.errors = dict(errors)
    error.responses = responses
    if len(responses) > 1:
        error.message = f"inputs[{index}]: {error.message}"
    raise error


def errors_of(groups: Sequence[Group]) -> dict[int, SamplerError]:
    """The first error of each group that has one, by input index."""
    found: dict[int, SamplerError] = {}
    for group in groups:
        for child in group.children:
            if child.error is not None:
                found.setdefault(group.index, child.error)
    return found


def progress_bar(total: int) -> Any:
    """A tqdm bar over inputs."""
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="input", desc="sampling")
