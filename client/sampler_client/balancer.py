"""Which replica takes a group. Pure: no I/O, no clock, no randomness.

Rendezvous hashing over (key, replica) gives every group a stable order of replicas, so that
siblings and later turns meet a warm prefix cache wherever the fleet grows or shrinks. Load bounds
it: a group leaves its first choice only when that replica carries both relatively and absolutely
more tokens than the mean, and then goes to the stable second choice, whose cache warms as well.
Where credit has run out, the next in order is taken: no replica idles while work waits. Siblings
that come apart in time still find each other, since the order depends on the key alone.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidate", "Order", "pick", "salt_of"]

RELATIVE_EXCESS = 1.25
ABSOLUTE_EXCESS_TOKENS = 4096

_MASK = (1 << 64) - 1
_VECTORISE_FROM = 24
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Candidate(Protocol):
    """What a pick looks at."""

    salt: int
    load_tokens: int

    def has_room(self, sequences: int, tokens: int) -> bool:
        """Credit allows that much more."""
        ...


def salt_of(identity: str) -> int:
    """64 bits that stand for a replica in the hash."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


class Order:
    """Replicas by their salts, to be put in the order that a key prefers them."""

    __slots__ = ("_salts", "_table")

    def __init__(self, salts: Iterable[int]) -> None:
        self._salts = list(salts)
        self._table: NDArray[np.uint64] | None = None
        if len(self._salts) >= _VECTORISE_FROM:
            self._table = np.array(self._salts, np.uint64)

    def first(self, key: int) -> int:
        """Index of the best of at least one replica."""
        if self._table is not None:
            return int(_many_scores(key, self._table).argmax())
        scores = _scores(key, self._salts)
        return scores.index(max(scores))

    def of(self, key: int) -> list[int]:
        """Indices of all replicas, best first."""
        if self._table is not None:
            best: list[int] = _many_scores(key, self._table).argsort()[::-1].tolist()
            return best
        scores = _scores(key, self._salts)
        return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)


# The finaliser of splitmix64, twice: two multiplications mix all 64 bits.
def _scores(key: int, salts: Sequence[int]) -> list[int]:
    scores = []
    for salt in salts:
        x = (key ^ salt) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        scores.append(x ^ (x >> 31))
    return scores


def _many_scores(key: int, salts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = salts ^ np.uint64(key & _MASK)
    x ^= x >> _SHIFTS[0]
    x *= _FACTORS[0]
    x ^= x >> _SHIFTS[1]
    x *= _FACTORS[1]
    x ^= x >> _SHIFTS[2]
    return x


def pick(
    key: int,
    candidates: Sequence[Candidate],
    order: Order,
    sequences: int,
    tokens: int,
    total_load: int,
) -> int | None:
    """Index of the replica for a group of ``sequences`` and ``tokens``; ``None`` when none has
    room.

    ``order`` is of the candidates' salts, ``total_load`` the sum of their ``load_tokens``.
    """
    number = len(candidates)
    if number == 1:
        return 0 if candidates[0].has_room(sequences, tokens) else None
    if number == 0:
        return None
    mean = total_load / number
    bound = max(mean * RELATIVE_EXCESS, mean + ABSOLUTE_EXCESS_TOKENS)
    index = order.first(key)
    if candidates[index].has_room(sequences, tokens) and candidates[index].load_tokens <= bound:
        return index
    spill: int | None = None
    for index in order.of(key):
        candidate = candidates[index]
        if candidate.has_room(sequences, tokens):
            if candidate.load_tokens <= bound:
                return index
            if spill is None:
                spill = index
    return spill
