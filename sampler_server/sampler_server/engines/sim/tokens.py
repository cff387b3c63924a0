"""The arithmetic of ``sim``: which token follows a prefix, and how likely it is. Pure, vectorised.

A prefix (weights, prompt, output so far) has a 64-bit state, a polynomial hash modulo 2^64: one
token more is ``state * M + token + C``. Token t is drawn from the state before it and the child's
seed; its logprob comes from the state after it, without the seed, so that scoring a completion as a
prompt gives the logprobs that it was sampled with. A lost, doubled or changed token, another split
or other weights give another state, and so another continuation.

Logprobs are negative numbers; they are no normalised distribution.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "REGULAR_IDS",
    "advance",
    "candidates",
    "eos_draws",
    "generate",
    "logprobs_of",
    "prefix_state",
    "prefix_states",
    "prompt_states",
    "seed_keys",
    "sim_sequence",
    "weights_state",
]

States = NDArray[np.uint64]

REGULAR_IDS = 256
"""Ids below this are the bytes; the rest are special and never sampled, the end of sequence
excepted.
"""

_MASK = (1 << 64) - 1
_MULTIPLIER = 0xD1342543DE82EF95
_M = np.uint64(_MULTIPLIER)
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_C = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TOKEN_SHIFT = np.uint64(56)
_LOGPROB_SHIFT = np.uint64(40)
_UNIT_SHIFT = np.uint64(11)


def _mixed(states: States) -> States:
    """A bijective scrambling: every bit of the result depends on all bits of the state."""
    z = states ^ (states >> _SHIFTS[0])
    z *= _MIX[0]
    z ^= z >> _SHIFTS[1]
    z *= _MIX[1]
    z ^= z >> _SHIFTS[2]
    return z


def _powers(base: int, length: int) -> States:
    table = np.full(length, base, np.uint64)
    table[:1] = 1
    return np.multiply.accumulate(table)


_power_table = _powers(_MULTIPLIER, 1024)


def _multiplier_powers(length: int) -> States:
    """M^0 … M^(length-1)."""
    global _power_table
    if len(_power_table) < length:
        _power_table = _powers(_MULTIPLIER, max(length, 2 * len(_power_table)))
    return _power_table


def weights_state(base: str, adapter: str | None) -> int:
    """The state of the empty prefix under a base digest and an adapter digest."""
    text = f"{base}\n{adapter or ''}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def seed_keys(seeds: Sequence[int]) -> States:
    """What seeds (any integers, taken modulo 2^64) add to the draw."""
    return _mixed(np.array([seed & _MASK for seed in seeds], np.uint64) + _C)


def prefix_states(empty: States, flat: NDArray[np.int32], lengths: NDArray[np.int64]) -> States:
    """States of B non-empty prefixes, which lie one after another in ``flat``.

    ``empty`` u64 [B] are the states of their weights.
    """
    ends = np.cumsum(lengths)
    powers = _multiplier_powers(int(lengths.max(initial=0)) + 1)
    terms = flat.astype(np.uint64)
    terms += _C
    terms *= powers[np.repeat(ends - 1, lengths) - np.arange(len(flat))]
    sums: States = np.add.reduceat(terms, ends - lengths)
    return sums + empty * powers[lengths]


def prefix_state(empty: int, prefix: NDArray[np.int32]) -> int:
    """One of :func:`prefix_states`."""
    return int(prefix_states(np.array([empty], np.uint64), prefix, np.array([len(prefix)]))[0])


def prompt_states(empty: int, prompt: NDArray[np.int32]) -> States:
    """States after each token of one prompt, u64 [P]."""
    length = len(prompt)
    terms = prompt.astype(np.uint64)
    terms += _C
    terms *= _powers(_INVERSE, length + 1)[1:]
    sums = np.cumsum(terms, dtype=np.uint64)
    sums += np.uint64(empty)
    return sums * _multiplier_powers(length + 1)[1 : length + 1]


def advance(states: States, tokens: States) -> States:
    """The states with one token more."""
    return states * _M + tokens + _C


def generate(
    states: States,
    keys: States,
    length: int,
    blocked: Mapping[int, tuple[int, frozenset[int]]] | None = None,
) -> tuple[NDArray[np.int32], States, States]:
    """The next ``length`` tokens of B sequences.

    Gives tokens i32 [B, T], the states after each u64 [B, T], and the draws u64 [B, T].

    ``blocked`` names rows whose first so many tokens avoid a set of ids: the next free id is taken.
    """
    tokens = np.empty((length, len(states)), np.uint64)
    after = np.empty_like(tokens)
    draws = np.empty_like(tokens)
    state = states
    scratch = np.empty_like(states)
    for t in range(length):
        # The body of _mixed without allocations: this loop is the cost of the engine.
        z = draws[t]
        np.bitwise_xor(state, keys, out=z)
        np.right_shift(z, _SHIFTS[0], out=scratch)
        z ^= scratch
        z *= _MIX[0]
        np.right_shift(z, _SHIFTS[1], out=scratch)
        z ^= scratch
        z *= _MIX[1]
        np.right_shift(z, _SHIFTS[2], out=scratch)
        z ^= scratch
        token = tokens[t]
        np.right_shift(z, _TOKEN_SHIFT, out=token)
        if blocked:
            for row, (until, ids) in blocked.items():
                if t < until:
                    token[row] = _unblocked(int(token[row]), ids)
        following = after[t]
        np.multiply(state, _M, out=following)
        following += token
        following += _C
        state = following
    return np.ascontiguousarray(tokens.T, np.int32), np.ascontiguousarray(after.T), draws.T


def _unblocked(token: int, ids: frozenset[int]) -> int:
    for step in range(REGULAR_IDS):
        candidate = (token + step) % REGULAR_IDS
        if candidate not in ids:
            return candidate
    return token


def eos_draws(draws: States, rate: float) -> NDArray[np.bool_]:
    """Where a draw is the end of sequence instead, with probability ``rate``."""
    return (_mixed(draws) >> _UNIT_SHIFT) < np.uint64(int(rate * (1 << 53)))


def logprobs_of(after: States) -> NDArray[np.float32]:
    """Logprobs of the last tokens of prefixes, f32 in (-8, 0)."""
    unit = (_mixed(after) >> _LOGPROB_SHIFT).astype(np.float32)
    unit += np.float32(0.5)
    unit *= np.float32(-8.0 / (1 << 24))
    return unit


def candidates(
    before: States, vocab_size: int, k: int, first: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k likeliest next tokens after prefixes, descending: ids i32 and logprobs f32 [T, k].

    With ``first`` i32 [T] that token leads its row and the others follow. Beyond the vocabulary: id
    -1 and NaN.
    """
    rows = len(before)
    every = np.arange(vocab_size, dtype=np.uint64)
    values = logprobs_of(advance(before[:, None], every[None, :]))
    rank = values.copy()
    if first is not None:
        rank[np.arange(rows), first] = 1.0
    taken = min(k, vocab_size)
    order = np.argsort(-rank, axis=1, kind="stable")[:, :taken]
    ids = np.full((rows, k), -1, np.int32)
    logprobs = np.full((rows, k), np.nan, np.float32)
    ids[:, :taken] = order
    logprobs[:, :taken] = np.take_along_axis(values, order, axis=1)
    return ids, logprobs


def sim_sequence(
    prompt: Sequence[int] | NDArray[np.int32],
    seed: int,
    base: str,
    adapter: str | None,
    length: int,
    *,
    eos_rate: float = 0.0,
    eos_id: int = REGULAR_IDS,
) -> tuple[list[int], list[float]]:
    """The undisturbed sequence of a child seed: tokens and logprobs, ended by ``length`` or by the
    EOS.
    """
    state = prefix_state(weights_state(base, adapter), np.asarray(prompt, np.int32))
    states = np.array([state], np.uint64)
    tokens, after, draws = generate(states, seed_keys([seed]), length)
    logprobs = logprobs_of(after)[0].tolist()
    made = tokens[0].tolist()
    ends = np.flatnonzero(eos_draws(draws[0], eos_rate)) if eos_rate else np.empty(0, np.int64)
    if len(ends):
        end = int(ends[0])
        before = after[0, end - 1 : end] if end else states
        logprob = logprobs_of(advance(before, np.array([eos_id], np.uint64)))
        return [*made[:end], eos_id], [*logprobs[:end], float(logprob[0])]
    return made, logprobs
