"""``SimEngine``: the Engine Protocol over the arithmetic of ``tokens`` and the clock of
``latency``.

Honoured: seed, max_total, min_tokens, ignore_eos, stop_token_ids, logprobs, prompt_logprobs,
adapters (the digest enters every token). Accepted without effect, because there is no distribution
to bend: temperature, top_k, top_p, min_p, penalties, logit_bias, bad_words, logprobs_mode (raw
equals processed).
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import (
    AdapterCapacity,
    AdapterInvalid,
    EngineDead,
    EngineFailed,
    SamplerError,
)

from ..base import Delta, EngineInfo, EngineProgress, EngineRequest, Sink, Weights
from .ledger import LedgerWriter, prompt_digest
from .model import EOS_ID, VOCAB_SIZE, base_digest
from .rows import Made, Row, Rows
from .settings import SimSettings
from .starting import start_rows
from .tokens import weights_state

__all__ = ["SimEngine"]

log = logging.getLogger(__name__)

_CHUNK = 64
"""Most tokens of one sequence in one step when nothing takes time."""


class _Prefill:
    """A sequence whose prompt (and output so far) is not read yet."""

    __slots__ = ("done", "row", "total")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.total = len(row.request.prompt_ids) + row.made
        self.done = 0


class SimEngine:
    """An engine without weights; one thread, which owns everything behind the inbox."""

    def __init__(self, settings: SimSettings | None = None) -> None:
        self._settings = settings or SimSettings()
        base = base_digest(self._settings.model)
        self._info = EngineInfo(
            engine="sim",
            model=self._settings.model,
            vocab_size=VOCAB_SIZE,
            context_limit=self._settings.context_limit,
            slots=self._settings.slots,
            kv_tokens=self._settings.kv_tokens,
            eos_ids=(EOS_ID,),
            base_digest=base,
            max_logprobs=VOCAB_SIZE,
            max_adapters=self._settings.max_adapters,
            max_lora_rank=self._settings.max_lora_rank,
        )
        # Unseeded sequences of two processes must differ.
        self._secret = int.from_bytes(os.urandom(8), "little")
        self._weights: dict[str | None, int] = {None: weights_state(base, None)}
        self._wake = threading.Condition()
        self._inbox: list[EngineRequest] = []
        self._cancelled: set[int] = set()
        self._is_closed = False
        self._waiting: dict[int, EngineRequest] = {}
        self._prefills: dict[int, _Prefill] = {}
        self._rows = Rows(self._settings.eos_rate)
        self._steps = 0
        self._deadline = 0.0
        self._ledger: LedgerWriter | None = None
        self._digested: tuple[NDArray[np.int32] | None, int] = (None, 0)
        self._thread: threading.Thread | None = None
        self._new_base: tuple[str, Future[None]] | None = None

    @property
    def info(self) -> EngineInfo:
        """What this engine announces."""
        return self._info

    def start(self, sink: Sink) -> None:
        """Open the ledger and begin to step."""
        if self._settings.ledger is not None:
            self._ledger = LedgerWriter(self._settings.ledger)
        self._sink = sink
        self._thread = threading.Thread(target=self._run, name="sim-engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Queue sequences; thread-safe, never blocks."""
        with self._wake:
            if not self._is_closed:
                self._inbox += requests
                self._wake.notify()
                return
        self._sink([_ended(r, EngineDead("the engine is closed")) for r in requests])

    def cancel(self, keys: Iterable[int]) -> None:
        """End sequences; an abort delta follows unless a finish has been sent."""
        with self._wake:
            self._cancelled.update(keys)
            self._wake.notify()

    def load_adapter(self, digest: str, directory: Path) -> None:
        """Serve the revision ``digest``; the files are not read. Raises AdapterInvalid,
        AdapterCapacity.
        """
        if not directory.is_dir():
            raise AdapterInvalid(f"{directory}: no such directory", "path")
        with self._wake:
            if digest in self._weights:
                return
            if len(self._weights) > self._settings.max_adapters:
                raise AdapterCapacity(f"all {self._settings.max_adapters} adapter slots are taken")
            self._weights[digest] = weights_state(self._info.base_digest, digest)

    def unload_adapter(self, digest: str) -> None:
        """Forget a revision."""
        with self._wake:
            self._weights.pop(digest, None)

    def update_weights(self, weights: Weights) -> None:
        """Serve another base: its digest enters every token. The files are not read."""
        done: Future[None] = Future()
        with self._wake:
            if self._is_closed:
                raise EngineDead("the engine is closed")
            self._new_base = weights.digest, done
            self._wake.notify()
        try:
            done.result()
        except CancelledError:
            raise EngineDead("the engine is closed") from None

    def _take_base(self) -> None:
        """Between two steps, behind the cancels that came before."""
        if self._new_base is None:
            return
        (digest, done), self._new_base = self._new_base, None
        if self._is_closed or not done.set_running_or_notify_cancel():
            done.cancel()
        elif self._waiting or self._prefills or self._rows:
            done.set_exception(EngineFailed("sequences run on the old weights"))
        else:
            self._info = replace(self._info, base_digest=digest)
            self._weights = {name: weights_state(digest, name) for name in self._weights}
            done.set_result(None)

    def progress(self) -> EngineProgress:
        """Counters; read without a lock, each is right by itself."""
        prefills = list(self._prefills.values())
        return EngineProgress(
            steps=self._steps,
            running=len(self._rows) + len(prefills),
            waiting=len(self._waiting) + len(self._inbox),
            kv_tokens_used=self._rows.kv_tokens + sum(p.total for p in prefills),
            prefill={p.row.request.key: (p.done, p.total) for p in prefills},
        )

    def close(self) -> None:
        """Stop the thread; unfinished sequences get abort deltas. Idempotent."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def abandon(self) -> None:
        """Nothing: its thread goes with the process."""

    def _run(self) -> None:
        try:
            while self._take():
                self._step()
            self._end_all(None)
        except Exception:
            log.exception("the sim engine failed")
            with self._wake:
                self._is_closed = True
            self._end_all(EngineDead("the sim engine failed; its log says why"))
        finally:
            if self._ledger is not None:
                self._ledger.close()

    def _take(self) -> bool:
        """Wait for work, then take what was handed in; False when closed."""
        with self._wake:
            while not (
                self._inbox
                or self._waiting
                or self._prefills
                or self._rows
                or self._is_closed
                or self._new_base
            ):
                self._cancelled.clear()
                self._wake.wait()
            inbox, self._inbox = self._inbox, []
            for request in inbox:
                self._waiting[request.key] = request
            is_open = not self._is_closed
        self._abort_cancelled()
        self._take_base()
        return is_open

    def _abort_cancelled(self) -> None:
        with self._wake:
            keys, self._cancelled = self._cancelled, set()
            # A cancel may have overtaken a submit of this very moment: it waits for the next turn.
            queued = {request.key for request in self._inbox} if keys and self._inbox else set()
            self._cancelled |= keys & queued
        if not keys:
            return
        gone = [
            key for key in keys if self._waiting.pop(key, None) or self._prefills.pop(key, None)
        ]
        gone += [row.request.key for row in self._rows.remove(keys)]
        if gone:
            self._sink([Delta(key, finish="abort") for key in gone])

    def _step(self) -> None:
        refused = self._admit()
        if refused:
            self._sink(refused)
        latency = self._settings.latency
        ready, tokens_read = self._prefill(latency.prefill_budget())
        scored = {row.request.key: row for row in ready if row.made >= row.request.max_total}
        self._rows.add([row for row in ready if row.request.key not in scored])
        decoding = len(self._rows)
        if latency.is_at_once:
            length = min(self._rows.most_left, _CHUNK)
        else:
            plan = latency.step(self._steps, decoding, tokens_read, self._rows.most_left)
            length = plan.tokens
            self._pause(plan.seconds)
        if self._settings.faults.stall_after == self._steps:
            self._stall()
        if self._is_closed:
            self._waiting.update((key, row.request) for key, row in scored.items())
            return
        self._steps += 1
        if len(self._rows):
            self._deliver(self._rows.step(length))
        if scored:
            self._sink(
                [Delta(key, finish="length", prompt=row.prompt) for key, row in scored.items()]
            )

    def _admit(self) -> list[Delta]:
        """Move waiting sequences into prefill as far as slots and tokens allow; returns the
        refusals.
        """
        used = self._rows.kv_tokens + sum(p.total for p in self._prefills.values())
        room = self._settings.slots - len(self._rows) - len(self._prefills)
        taken: list[EngineRequest] = []
        for request in self._waiting.values():
            if room <= 0:
                break
            size = len(request.prompt_ids) + len(request.output_ids)
            is_alone = not (taken or self._rows or self._prefills)
            if used + size > self._settings.kv_tokens and not is_alone:
                break
            taken.append(request)
            used += size
            room -= 1
        for request in taken:
            del self._waiting[request.key]
        rows, refused = start_rows(taken, self._weights, self._secret, self._settings.faults)
        for row in rows:
            self._prefills[row.request.key] = _Prefill(row)
        return [Delta(each.key, finish="error", error=each.error) for each in refused]

    def _prefill(self, budget: int | None) -> tuple[list[Row], int]:
        """Read prompts in the order of admission: the sequences whose prompt is read now, and the
        tokens read.
        """
        read = 0
        done: list[Row] = []
        for prefill in self._prefills.values():
            part = prefill.total - prefill.done
            if budget is not None:
                part = min(budget - read, part)
            prefill.done += part
            read += part
            if prefill.done < prefill.total:
                break
            done.append(prefill.row)
        for row in done:
            del self._prefills[row.request.key]
        return done, read

    def _pause(self, seconds: float) -> None:
        """Let the time of a step pass. Cancels are heard; what comes in waits for the next step."""
        now = time.monotonic()
        # Counted from the end of the step before, so that the rate holds although waking up takes
        # time.
        start = self._deadline if now - self._deadline < 0.02 else now
        self._deadline = start + seconds
        while True:
            with self._wake:
                remaining = self._deadline - time.monotonic()
                if self._is_closed or remaining <= 0:
                    return
                if not self._cancelled:
                    self._wake.wait(remaining)
                is_cancelled = bool(self._cancelled)
            if is_cancelled:
                self._abort_cancelled()

    def _stall(self) -> None:
        with self._wake:
            while not self._is_closed:
                self._wake.wait()

    def _deliver(self, made: list[Made]) -> None:
        if self._ledger is not None:
            for part in made:
                if part.delta.tokens:
                    row = part.row
                    digest = self._digest(row.request)
                    self._ledger.add(
                        row.request, digest, row.weights, part.offset, part.delta.tokens
                    )
            self._ledger.flush()
        self._sink([part.delta for part in made])

    def _digest(self, request: EngineRequest) -> int:
        # Children of one prompt come one after another and share the array.
        prompt, digest = self._digested
        if prompt is not request.prompt_ids:
            digest = prompt_digest(request.prompt_ids)
            self._digested = request.prompt_ids, digest
        return digest

    def _end_all(self, error: SamplerError | None) -> None:
        with self._wake:
            keys = [request.key for request in self._inbox]
            self._inbox.clear()
            if self._new_base is not None:
                self._new_base[1].cancel()
        keys += [*self._waiting, *self._prefills]
        keys += [row.request.key for row in self._rows.remove(None)]
        self._waiting.clear()
        self._prefills.clear()
        if keys:
            self._sink(
                [Delta(key, finish="error" if error else "abort", error=error) for key in keys]
            )


def _ended(request: EngineRequest, error: SamplerError) -> Delta:
    return Delta(request.key, finish="error", error=error)
