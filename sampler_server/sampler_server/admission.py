"""How many sequences and KV tokens each session may have in flight. Pure.

Capacity is filled like water among the sessions *with demand*, by weight: nobody gets more than it
can use while another one wants it. Sessions without demand hold what nobody wants, and at least one
sequence, so that they can begin without asking; together that is no cost to the busy ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Claim", "share", "water_fill"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One session: what it has in flight here and what waits at its client, each as sequences and
    KV tokens."""

    weight: float = 1.0
    running: tuple[int, int] = (0, 0)
    waiting: tuple[int, int] = (0, 0)

    @property
    def is_idle(self) -> bool:
        """Neither runs nor waits."""
        return not (self.running[0] or self.waiting[0])


def water_fill(total: float, wants: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Split ``total``: each gets its want or the common level times its weight, what is less."""
    shares = [0.0] * len(wants)
    left = max(0.0, total)
    weight = sum(weights)
    # Whoever is satisfied at the lowest level first: what it leaves raises the level of the rest.
    for i in sorted(range(len(wants)), key=lambda i: wants[i] / weights[i]):
        shares[i] = min(wants[i], left * weights[i] / weight)
        left -= shares[i]
        weight -= weights[i]
    return shares


def share(claims: Sequence[Claim], sequences: int, tokens: int) -> list[tuple[int, int]]:
    """The limit of each session in sequences and tokens, of ``sequences`` and ``tokens`` in all.

    Every limit is at least one; a client may always have one input in flight, however large.
    """
    limits = [
        _share_one([c.running[d] + c.waiting[d] for c in claims], claims, total)
        for d, total in enumerate((sequences, tokens))
    ]
    return list(zip(*limits, strict=True)) if claims else []


def _share_one(wants: Sequence[int], claims: Sequence[Claim], total: int) -> list[int]:
    busy = [i for i, claim in enumerate(claims) if not claim.is_idle]
    idle = len(claims) - len(busy)
    weights = [claims[i].weight for i in busy]
    shares = water_fill(total, [max(1, wants[i]) for i in busy], weights)
    spare = max(0.0, total - sum(shares))
    limits = [1] * len(claims)
    if idle:
        # Half of the spare is headroom for the busy: their demand is as old as their last frame.
        for_idle = (spare / 2 if busy else spare) / idle
        spare = spare / 2 if busy else 0.0
        for i, claim in enumerate(claims):
            if claim.is_idle:
                limits[i] = max(1, int(for_idle))
    weight = sum(weights)
    for i, got in zip(busy, shares, strict=True):
        # The tolerance is for sums of floats that fall just short of an integer.
        limits[i] = max(1, int(got + spare * claims[i].weight / weight + 1e-6))
    return limits
