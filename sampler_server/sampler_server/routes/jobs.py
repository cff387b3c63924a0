"""Several inputs of one HTTP request at the hub: all at once, as far as the slots go."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sampler_api.columns import Columns
from sampler_api.errors import InvalidRequest, SamplerError
from sampler_api.frames import RUNNING, RevisionRef
from sampler_api.params import SamplingParams
from sampler_core.seeds import child_seed

from ..engines.base import PromptScores
from ..hub import Hub
from ..runs import Piece, run

__all__ = ["MAX_SEQUENCES", "Child", "Done", "Job", "Pieces", "check_number", "collect", "jobs_of"]

MAX_SEQUENCES = 4096
"""Sequences of one HTTP request; larger batches belong to sessions, which can resume."""
_QUEUED = 64


@dataclass(frozen=True, slots=True)
class Job:
    """One input with a child per seed. ``prompt`` i32 [P]."""

    prompt: NDArray[np.int32]
    params: SamplingParams
    seeds: tuple[int | None, ...]
    ref: RevisionRef


class Child:
    """What has come of one sequence."""

    __slots__ = ("columns", "error", "flag", "matched")

    def __init__(self, k: int) -> None:
        self.columns = Columns(k)
        self.flag = RUNNING
        self.matched: str | int | None = None
        self.error: SamplerError | None = None

    def take(self, piece: Piece) -> None:
        """Append a piece."""
        into, new = self.columns, piece.columns
        into.tokens += new.tokens
        into.logprobs += new.logprobs
        into.top_ids += new.top_ids
        into.top_logprobs += new.top_logprobs
        self.flag, self.matched, self.error = piece.flag, piece.matched, piece.error


@dataclass(slots=True)
class Done:
    """All children of a job, ended."""

    children: list[Child]
    scores: PromptScores | None = None


def seeds_of(seed: int | None, index: int, number: int) -> tuple[int | None, ...]:
    """The seeds of the children of input ``index``; without a seed the engine draws its own."""
    if seed is None:
        return (None,) * number
    return tuple(child_seed(seed, index, k) for k in range(number))


def jobs_of(
    prompts: Sequence[NDArray[np.int32]], params: SamplingParams, number: int, ref: RevisionRef
) -> list[Job]:
    """A job per prompt."""
    return [
        Job(prompt, params, seeds_of(params.seed, i, number), ref)
        for i, prompt in enumerate(prompts)
    ]


def check_number(inputs: int, number: int) -> None:
    """Raises InvalidRequest for more sequences than one request may have."""
    if inputs * number > MAX_SEQUENCES:
        raise InvalidRequest(
            f"n: {inputs} inputs with {number} samples are more than the {MAX_SEQUENCES} sequences "
            "of one HTTP request; split it, or use a session",
            "n",
        )


def _gate(hub: Hub, number: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(max(1, hub.info.slots // max(1, number)))


async def collect(hub: Hub, jobs: Sequence[Job]) -> list[Done | SamplerError]:
    """Run the jobs; one result each, in order. Cancelling this cancels at the engine."""
    gate = _gate(hub, len(jobs[0].seeds)) if jobs else asyncio.Semaphore()

    async def one(job: Job) -> Done | SamplerError:
        k = 0 if job.params.logprobs is None else max(1, job.params.logprobs)
        done = Done([Child(k) for _ in job.seeds])
        try:
            async with (
                gate,
                run(hub, job.prompt, job.params, seeds=job.seeds, ref=job.ref) as pieces,
            ):
                async for piece in pieces:
                    done.children[piece.child].take(piece)
                    done.scores = piece.scores or done.scores
        except SamplerError as error:
            return error
        return done

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(job)) for job in jobs]
    return [task.result() for task in tasks]


class Pieces:
    """Pieces of several jobs as they come: ``async with Pieces(hub, jobs) as pieces``.

    Gives ``(job, piece)``. Leaving cancels what is unfinished. Raises what ``runs.run`` raises.
    """

    def __init__(self, hub: Hub, jobs: Sequence[Job]) -> None:
        self._hub = hub
        self._jobs = jobs
        # Bounded, so that a slow reader gets larger pieces instead of more of them.
        self._queue: asyncio.Queue[tuple[int, Piece] | SamplerError | None] = asyncio.Queue(_QUEUED)
        self._tasks: list[asyncio.Task[None]] = []
        self._left = len(jobs)

    async def __aenter__(self) -> "Pieces":
        gate = _gate(self._hub, len(self._jobs[0].seeds))
        self._tasks = [
            asyncio.create_task(self._feed(i, job, gate)) for i, job in enumerate(self._jobs)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _feed(self, index: int, job: Job, gate: asyncio.Semaphore) -> None:
        try:
            async with (
                gate,
                run(
                    self._hub,
                    job.prompt,
                    job.params,
                    seeds=job.seeds,
                    ref=job.ref,
                    is_interactive=True,
                ) as pieces,
            ):
                async for piece in pieces:
                    await self._queue.put((index, piece))
        except SamplerError as error:
            await self._queue.put(error)
        await self._queue.put(None)

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        while self._left:
            item = await self._queue.get()
            if isinstance(item, SamplerError):
                raise item
            if item is not None:
                return item
            self._left -= 1
        raise StopAsyncIteration
