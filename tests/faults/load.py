"""The client process of a fault row: it samples without end, and writes down what it gets.

``python -m tests.faults.load TARGET JOURNAL [--run N] [--calls N] …``: ``--calls`` calls of
``SAMPLES`` sequences are under way at any time. SIGTERM asks for no more: the process ends when
everything has been answered. With ``--bye`` SIGTERM closes the sampler at once instead, as a job
does that is stopped.
"""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any, Final

from tests.faults.journal import (
    Arrived,
    Asked,
    Closed,
    Delivered,
    Ended,
    JournalWriter,
    Span,
)
from tests.proxy import wait_until

from sampler_api.results import SampledSequence
from sampler_client import RemoteSampler, SamplingParams
from sampler_client.dispatcher import Dispatcher
from sampler_client.replica import Replica

__all__ = ["CALLS", "RUN", "SAMPLES", "call_length", "call_prompt"]

SAMPLES: Final = 4
CALLS: Final = 32
_SHORTEST: Final = 120
_LENGTHS: Final = 240
RUN: Final = 1_000_000
"""Seeds of one client; the calls of client ``n`` have seeds from ``n * RUN`` on."""
_PROMPT_TOKENS: Final = 24


def call_prompt(seed: int) -> tuple[int, ...]:
    """The prompt of a call: byte tokens, of which no two calls share them all."""
    digits = seed.to_bytes(4, "little")
    return tuple(digits) + tuple((seed * 31 + place * 7) % 251 for place in range(_PROMPT_TOKENS))


def call_length(seed: int) -> int:
    """Tokens of each of its sequences: long, and of many lengths, so that calls end apart."""
    return _SHORTEST + seed * 7919 % _LENGTHS


def seed_of_prompt(prompt: Any) -> int:
    """The inverse of ``call_prompt``."""
    return int.from_bytes(bytes(prompt[:4].tolist()), "little")


class ArrivalRecorder:
    """Writes down which sequences a frame has brought tokens for. Runs in the client's loop."""

    def __init__(self, dispatcher: Dispatcher, journal: JournalWriter) -> None:
        self._take = dispatcher.frame
        self._journal = journal
        dispatcher.frame = self._frame  # type: ignore[method-assign]

    def _frame(self, replica: Replica, data: bytes) -> None:
        children = {child: replica.arrived(child) for child in replica.children.values()}
        self._take(replica, data)
        at = self._journal.now()
        totals = tuple(
            (seed_of_prompt(child.group.prompt_ids), child.k, length)
            for child, before in children.items()
            if (length := replica.arrived(child)) > before
        )
        if totals:
            self._journal.write(Arrived(at, replica.name, totals))


class Load:
    """Calls without end, a fixed number at a time."""

    def __init__(self, sampler: RemoteSampler, journal: JournalWriter, run: int) -> None:
        self._sampler = sampler
        self._journal = journal
        self._next = run * RUN
        self.is_stopping = False

    async def run(self, calls: int) -> None:
        """Until ``is_stopping``, and until what was begun then has ended."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(calls):
                tasks.create_task(self._call_again_and_again())

    async def _call_again_and_again(self) -> None:
        while not self.is_stopping:
            seed, self._next = self._next, self._next + 1
            await self._call(seed)

    async def _call(self, seed: int) -> None:
        prompt, length = call_prompt(seed), call_length(seed)
        self._journal.write(Asked(self._journal.now(), prompt, seed, SAMPLES, length))
        params = SamplingParams(max_tokens=length, seed=seed, logprobs=1)
        [response] = await self._sampler.asample(
            {"input_ids": list(prompt)}, params, num_samples=SAMPLES, on_error="return"
        )
        at = self._journal.now()
        sequences = tuple(map(delivered, response.sequences))
        self._journal.write(Ended(at, seed, sequences))


def delivered(sequence: SampledSequence) -> Delivered:
    """What the journal keeps of a sequence."""
    rows = sequence.logprobs
    logprobs = b"" if rows is None or not len(rows) else rows.sampled.tobytes()  # type: ignore[union-attr]
    revision, error = sequence.revision, sequence.error
    return Delivered(
        sequence.token_ids.tobytes(),
        logprobs,
        "" if revision is None else revision.base,
        None if revision is None else revision.adapter,
        tuple(Span(s.replica, s.start, s.end, s.ended) for s in sequence.segments),
        "" if error is None else error.code,
        "" if error is None else error.message,
    )


async def _run(words: argparse.Namespace) -> None:
    journal = JournalWriter(words.journal)
    settings: dict[str, Any] = {}
    for setting in words.set:
        name, _, value = setting.partition("=")
        settings[name] = value if name == "on_revision_gone" else float(value)
    loop = asyncio.get_running_loop()
    with RemoteSampler(words.target, **settings) as sampler:
        # The one place that looks inside: no public call tells when each token arrives.
        worker = sampler._backend._running()  # type: ignore[attr-defined]
        ArrivalRecorder(worker.dispatcher, journal)
        load = Load(sampler, journal, words.run)
        # Else the first one that answers would get all of it.
        replicas = worker.dispatcher.replicas
        await asyncio.to_thread(
            wait_until, lambda: len(replicas) >= words.replicas, "all replicas have answered"
        )
        sampling = loop.create_task(load.run(words.calls))

        def stop() -> None:
            load.is_stopping = True
            if words.bye:
                sampling.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        try:
            await sampling
        except asyncio.CancelledError:
            if not words.bye:
                raise
    if not words.bye:
        journal.write(Closed(journal.now()))


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.load", description=__doc__)
    parser.add_argument("target", help="as RemoteSampler takes it")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--run", type=int, default=1, help="number of this process of the row")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--replicas", type=int, default=1, help="wait for so many to answer")
    parser.add_argument("--bye", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    words = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    asyncio.run(_run(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
