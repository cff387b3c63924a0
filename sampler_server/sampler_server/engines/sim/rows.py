"""The sequences that decode, as columns: one step is a handful of array operations however many
there are.
"""

from collections.abc import Collection, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from sampler_api.errors import EngineFailed, SamplerError

from ..base import Delta, EngineRequest, Finish, PromptScores
from .model import EOS_ID, VOCAB_SIZE
from .tokens import (
    advance,
    candidates,
    eos_draws,
    generate,
    logprobs_of,
    prompt_states,
)

__all__ = ["Made", "Row", "Rows", "prompt_scores"]

_NEVER = 1 << 62


class Row(msgspec.Struct, gc=False):
    """One sequence that decodes; ``state`` and ``key`` are numbers of ``tokens``.

    ``fail_at`` is the output length at which it fails on purpose.
    """

    request: EngineRequest
    weights: int
    state: int
    key: int
    made: int
    prompt: PromptScores | None = None
    fail_at: int = _NEVER


class Made(msgspec.Struct, gc=False):
    """What one row made in a step: its delta, and the output length before it."""

    row: Row
    offset: int
    delta: Delta


class Rows:
    """Decoding sequences. Not thread-safe: the engine's thread owns it."""

    def __init__(self, eos_rate: float) -> None:
        self._eos_rate = eos_rate
        self._rows: list[Row] = []
        self._states = np.empty(0, np.uint64)
        self._keys = np.empty(0, np.uint64)
        self._made = np.empty(0, np.int64)
        self._left = np.empty(0, np.int64)
        self.kv_tokens = 0
        """Prompt and output tokens of all rows."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def most_left(self) -> int:
        """Tokens until every row has reached its length."""
        return int(self._left.max(initial=1))

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows that have at least one token to make."""
        if not rows:
            return
        self._rows += rows
        made = np.array([row.made for row in rows], np.int64)
        left = np.array([row.request.max_total for row in rows], np.int64) - made
        self._states = np.concatenate(
            [self._states, np.array([row.state for row in rows], np.uint64)]
        )
        self._keys = np.concatenate([self._keys, np.array([row.key for row in rows], np.uint64)])
        self._made = np.concatenate([self._made, made])
        self._left = np.concatenate([self._left, left])
        self.kv_tokens += sum(len(row.request.prompt_ids) + row.made for row in rows)

    def remove(self, keys: Collection[int] | None) -> list[Row]:
        """Drop the rows of these keys (``None``: all) and return them."""
        gone = [i for i, row in enumerate(self._rows) if keys is None or row.request.key in keys]
        removed = [self._rows[i] for i in gone]
        if gone:
            keep = np.ones(len(self._rows), np.bool_)
            keep[gone] = False
            self._keep(keep)
        return removed

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        if not keep.any():
            self._rows = []
        else:
            self._rows = [
                row for row, stays in zip(self._rows, keep.tolist(), strict=True) if stays
            ]
        self._states, self._keys = self._states[keep], self._keys[keep]
        self._made, self._left = self._made[keep], self._left[keep]
        self.kv_tokens = sum(len(row.request.prompt_ids) for row in self._rows) + int(
            self._made.sum()
        )

    def step(self, length: int) -> list[Made]:
        """Up to ``length`` tokens for every row; finished rows leave."""
        rows, before = self._rows, self._states
        tokens, after, draws = generate(before, self._keys, length, self._blocked())
        counts = np.minimum(self._left, length)
        stopped = np.zeros(len(rows), np.bool_)
        if self._eos_rate:
            self._end_at_eos(tokens, after, draws, counts, stopped)
        offsets = self._made.tolist()
        for i, row in enumerate(rows):
            if row.request.params.stop_token_ids:
                self._end_at_stop_id(i, row, tokens[i], counts, stopped)
        finished = stopped | (self._left <= counts)
        logprobs = logprobs_of(after).tobytes()
        data = tokens.tobytes()
        found: list[Made] = []
        width = length * 4
        for i, (row, offset, count, stop, end) in enumerate(
            zip(rows, offsets, counts.tolist(), stopped.tolist(), finished.tolist(), strict=True)
        ):
            finish: Finish | None = "stop" if stop else "length" if end else None
            error: SamplerError | None = None
            if offset + count > row.fail_at:
                count, finish, error = row.fail_at - offset, "error", _failure()
                finished[i] = True
            start = i * width
            delta = Delta(
                row.request.key, data[start : start + count * 4], finish=finish, error=error
            )
            k = row.request.params.logprobs
            if k is not None:
                delta.logprobs = logprobs[start : start + count * 4]
                if k > 1:
                    first = np.concatenate([before[i : i + 1], after[i, : max(0, count - 1)]])[
                        :count
                    ]
                    ids, values = candidates(first, VOCAB_SIZE, k, tokens[i, :count])
                    delta.top_ids, delta.top_logprobs = ids.tobytes(), values.tobytes()
            if row.prompt is not None:
                delta.prompt, row.prompt = row.prompt, None
            found.append(Made(row, offset, delta))
        self._states = after[:, -1]
        self._made += counts
        self._left -= counts
        self.kv_tokens += int(counts.sum())
        if finished.any():
            self._keep(~finished)
        return found

    def _blocked(self) -> dict[int, tuple[int, frozenset[int]]]:
        """Rows that may not stop yet: their stop ids must not come up."""
        blocked = {}
        for i, row in enumerate(self._rows):
            params = row.request.params
            if params.min_tokens and params.stop_token_ids:
                until = params.min_tokens - int(self._made[i])
                if until > 0:
                    blocked[i] = until, frozenset(params.stop_token_ids)
        return blocked

    def _end_at_eos(
        self,
        tokens: NDArray[np.int32],
        after: NDArray[np.uint64],
        draws: NDArray[np.uint64],
        counts: NDArray[np.int64],
        stopped: NDArray[np.bool_],
    ) -> None:
        earliest = [
            _NEVER if row.request.params.ignore_eos else row.request.params.min_tokens
            for row in self._rows
        ]
        positions = self._made[:, None] + np.arange(tokens.shape[1])
        ends = eos_draws(draws, self._eos_rate) & (positions >= np.array(earliest)[:, None])
        at = ends.argmax(axis=1)
        hit = np.flatnonzero(ends.any(axis=1) & (at < counts))
        at = at[hit]
        earlier = np.where(at > 0, after[hit, at - 1], self._states[hit])
        tokens[hit, at] = EOS_ID
        after[hit, at] = advance(earlier, np.full(len(hit), EOS_ID, np.uint64))
        counts[hit] = at + 1
        stopped[hit] = True

    def _end_at_stop_id(
        self,
        i: int,
        row: Row,
        tokens: NDArray[np.int32],
        counts: NDArray[np.int64],
        stopped: NDArray[np.bool_],
    ) -> None:
        params = row.request.params
        is_stop = np.isin(tokens[: counts[i]], np.array(params.stop_token_ids))
        is_stop[: max(0, params.min_tokens - int(self._made[i]))] = False
        at = np.flatnonzero(is_stop)
        if len(at):
            counts[i] = at[0] + 1
            stopped[i] = True


def _failure() -> EngineFailed:
    return EngineFailed("the engine was told to fail on some sequences (fail_rate)")


def prompt_scores(weights: int, prompt: NDArray[np.int32], k: int) -> PromptScores:
    """Raw logprobs of a prompt and the k likeliest tokens at each position; row 0 is NaN with ids
    -1.
    """
    states = prompt_states(weights, prompt)
    logprobs = logprobs_of(states)
    logprobs[0] = np.nan
    if k == 0:
        return PromptScores(logprobs.tobytes())
    ids = np.full((len(prompt), k), -1, np.int32)
    values = np.full((len(prompt), k), np.nan, np.float32)
    ids[1:], values[1:] = candidates(states[:-1], VOCAB_SIZE, k)
    return PromptScores(logprobs.tobytes(), ids.tobytes(), values.tobytes(), k)
