"""Which replica takes a group. Pure: no I/O, no clock, no randomness.

Rendezvous hashing over (key, replica) gives every group a stable order of replicas, so that
siblings and later turns meet a warm prefix cache wherever the fleet grows or shrinks. Load bounds
it: a group leaves its first choice only when that replica carries both relatively and absolutely
more tokens than the mean, and then goes to the stable second choice, whose cache warms as well.
Where credit has run out, the next in order is taken: no replica idles while work waits. Siblings
that come apart in time still find each other, since the order depends on the key alone.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["Candidate", "order", "pick", "salt_of"]

RELATIVE_EXCESS = 1.25
ABSOLUTE_EXCESS_TOKENS = 4096

_MASK = (1 << 64) - 1
_VECTORISE_FROM = 24


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


def _score(key: int, salt: int) -> int:
    # The finaliser of splitmix64: two multiplications mix all 64 bits.
    x = (key ^ salt) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def order(key: int, salts: Sequence[int]) -> list[int]:
    """Indices of the replicas in the order that ``key`` prefers them."""
    if len(salts) < _VECTORISE_FROM:
        return sorted(range(len(salts)), key=lambda i: _score(key, salts[i]), reverse=True)
    x = np.asarray(salts, np.uint64) ^ np.uint64(key & _MASK)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    best: list[int] = np.argsort(x)[::-1].tolist()
    return best


def pick(
    key: int, candidates: Sequence[Candidate], sequences: int, tokens: int, total_load: int
) -> int | None:
    """Index of the replica for a group of ``sequences`` and ``tokens``; ``None`` when none has
    room.

    ``total_load`` is the sum of ``load_tokens``.
    """
    number = len(candidates)
    if number == 1:
        return 0 if candidates[0].has_room(sequences, tokens) else None
    if number == 0:
        return None
    mean = total_load / number
    bound = max(mean * RELATIVE_EXCESS, mean + ABSOLUTE_EXCESS_TOKENS)
    spill: int | None = None
    for index in order(key, [candidate.salt for candidate in candidates]):
        candidate = candidates[index]
        if candidate.has_room(sequences, tokens):
            if candidate.load_tokens <= bound:
                return index
            if spill is None:
                spill = index
    return spill
