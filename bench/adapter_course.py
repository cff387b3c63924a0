"""A training job as a server sees it: one adapter after another is published, and sampled from
while the next one comes. Every sequence is looked at.

Of each step: calls on the two newest adapters and on the base begin, the next adapter is published,
one token is asked of it, and the calls of the step before are waited for. So sequences of five
revisions at most are in flight, and each name means another revision while sequences of the one
before still run.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench.token_adapters import TokenAdapters

from sampler_api.errors import SamplerError
from sampler_api.results import SampledSequence
from sampler_api.revisions import Revision
from sampler_core.base import SamplerBase

__all__ = ["Course", "Footprint", "Look", "footprint", "publish_one_after_another", "verdict"]

NAMES: Final = 2
"""Names that the adapters are published under in turns."""
PROMPTS: Final = 16
LENGTH: Final = 16
DIRECTORIES: Final = 16
"""That a job leaves; a server has its own copy by then."""
LOOK_EVERY: Final = 10
BASE_MARGIN: Final = 1e-2
"""Least difference of the two best logprobs of what is expected of the base."""
_GREEDY: Final[dict[str, Any]] = {"temperature": 0.0, "ignore_eos": True}


@dataclass(frozen=True, slots=True)
class Footprint:
    """What some processes have of the machine."""

    mib: float
    """Resident memory of all."""
    descriptors: int


Look = Callable[[], Footprint]


def footprint(pids: Sequence[int]) -> Footprint:
    """Of these processes together; those that have gone have nothing. Linux only."""
    kib = descriptors = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    kib += int(line.split()[1])
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Footprint(kib / 1024, descriptors)


@dataclass(slots=True)
class Course:
    """What became of it all. Times are in seconds."""

    first_tokens: list[float] = field(default_factory=list)
    """From the begin of a publishing to the first token of the adapter."""
    calls: list[float] = field(default_factory=list)
    """Of the sequences that ran meanwhile."""
    server: list[tuple[int, Footprint]] = field(default_factory=list)
    """By step."""
    client: list[tuple[int, Footprint]] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    """By the adapter's number."""
    replicas: set[str] = field(default_factory=set)
    sequences: int = 0
    wrong: list[str] = field(default_factory=list)
    """Sequences of other weights than were asked for."""
    lost: list[str] = field(default_factory=list)
    """Sequences and publishings without a result."""

    def growth(self, look: str, first: int) -> tuple[float, float]:
        """MiB from step ``first`` to the end, and by least squares in 100 steps, of the ``server``
        or the ``client``."""
        points = [(step, found.mib) for step, found in getattr(self, look) if step >= first]
        steps, mib = np.array(points).T
        return float(mib[-1] - mib[0]), float(np.polyfit(steps, mib, 1)[0]) * 100


def verdict(sequence: SampledSequence, tokens: Sequence[int], revision: Revision) -> str:
    """Why a sequence is not of ``revision``, which makes ``tokens``; empty when it is."""
    named = {sequence.revision, *(segment.revision for segment in sequence.segments)}
    if named != {revision}:
        return f"asked for {revision}, told of {', '.join(map(str, named))}"
    if sequence.tokens != list(tokens):
        return f"{revision} makes {list(tokens)}, not {sequence.tokens}"
    return ""


@dataclass(frozen=True, slots=True)
class _Bound:
    """What a name means, or the base."""

    name: str
    number: int | None
    revision: Revision


class _Job:
    def __init__(
        self, sampler: SamplerBase, adapters: TokenAdapters, folder: Path, distinct: int
    ) -> None:
        self.sampler = sampler
        self.adapters = adapters
        self.folder = folder
        self.distinct = distinct
        self.course = Course()
        self.bound: dict[str, _Bound] = {}
        """By name, the newest last."""
        self.base: _Bound
        self.prompts: list[list[int]] = []
        self.answers: list[list[int]] = []
        """Of the base, by prompt."""

    async def learn_base(self) -> None:
        """What the base makes of the prompts, before there is any adapter."""
        rng = np.random.default_rng(0)
        count = 4 * PROMPTS
        drawn = [
            rng.choice(self.adapters.alphabet, size).tolist() for size in rng.integers(8, 25, count)
        ]
        params = {**_GREEDY, "max_tokens": LENGTH, "logprobs": 2}
        found = await self.sampler.asample([{"input_ids": ids} for ids in drawn], params)
        for ids, sequence in zip(drawn, found.sequences, strict=True):
            assert sequence.logprobs is not None
            if min(row[0][1] - row[1][1] for row in sequence.logprobs) >= BASE_MARGIN:
                self.prompts.append(ids)
                self.answers.append(sequence.tokens)
        if len(self.prompts) < PROMPTS:
            raise SystemExit(f"only {len(self.prompts)} of {count} prompts leave the base no doubt")
        revision = found.sequences[0].revision
        assert revision is not None
        self.base = _Bound("", None, Revision(revision.base))

    async def call(self, wanted: _Bound, prompt: int, length: int) -> float:
        """One sequence, looked at; its seconds."""
        course = self.course
        begun = time.perf_counter()
        try:
            found = await self.sampler.asample(
                {"input_ids": self.prompts[prompt]},
                {**_GREEDY, "max_tokens": length},
                wanted.name,
            )
        except SamplerError as error:
            course.lost.append(f"{type(error).__name__}: {error}")
            return time.perf_counter() - begun
        seconds = time.perf_counter() - begun
        [sequence] = found.sequences
        course.sequences += 1
        course.replicas |= {segment.replica for segment in sequence.segments}
        if wanted.number is None:
            tokens = self.answers[prompt][:length]
        else:
            tokens = [self.adapters.token(wanted.number)] * length
        if len(sequence.tokens) != length:
            course.lost.append(f"{len(sequence.tokens)} of {length} tokens")
        elif told := verdict(sequence, tokens, wanted.revision):
            course.wrong.append(told)
        return seconds

    async def publish(self, step: int) -> None:
        """Adapter ``step``, or one that was there before; then its first token."""
        number = step % self.distinct
        directory = self.folder / str(number)
        if not directory.exists():
            self.adapters.write(number, directory)
        name = f"policy-{step % NAMES}"
        begun = time.perf_counter()
        try:
            found = await asyncio.to_thread(self.sampler.add_adapter_to_model, name, directory)
        except SamplerError as error:
            self.course.lost.append(f"publishing {number}: {type(error).__name__}: {error}")
            return
        self.course.digests[number] = found.digest
        self.bound.pop(name, None)
        wanted = _Bound(name, number, Revision(self.base.revision.base, found.digest))
        self.bound[name] = wanted
        await self.call(wanted, step % PROMPTS, 1)
        self.course.first_tokens.append(time.perf_counter() - begun)
        if self.distinct > DIRECTORIES:
            old = self.folder / str(number - DIRECTORIES)
            await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)

    def load(self, step: int) -> "list[asyncio.Task[float]]":
        """Begin this step's sequences: two of the newest adapter, one of that before, one of the
        base."""
        newest = list(self.bound.values())[::-1]
        wanted = [*newest[:1], *newest, self.base]
        return [
            asyncio.create_task(self.call(each, (step + i) % PROMPTS, LENGTH))
            for i, each in enumerate(wanted)
        ]


async def publish_one_after_another(
    sampler: SamplerBase,
    adapters: TokenAdapters,
    folder: Path,
    steps: int,
    *,
    distinct: int | None = None,
    look: Look | None = None,
    look_here: Look | None = None,
) -> Course:
    """``steps`` adapters, or ``distinct`` ones over and over, from directories in ``folder``.

    ``look`` is asked for the server's footprint, ``look_here`` for this process's, now and then.
    """
    job = _Job(sampler, adapters, folder, steps if distinct is None else distinct)
    await job.learn_base()
    course = job.course
    before: list[asyncio.Task[float]] = []
    for step in range(steps):
        running = job.load(step)
        # They begin, and with that know their revision, before the name means another one.
        await asyncio.sleep(0)
        await job.publish(step)
        course.calls += await asyncio.gather(*before)
        before = running
        if (step + 1) % LOOK_EVERY == 0:
            for looks, to in ((look, course.server), (look_here, course.client)):
                if looks is not None:
                    to.append((step + 1, looks()))
    course.calls += await asyncio.gather(*before)
    return course
