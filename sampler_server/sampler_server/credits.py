"""Grants of the sessions: who changes its demand causes one new division for all, soon after."""

import asyncio
import math
from typing import Protocol

from sampler_api.frames import Grant

from .admission import Claim, share
from .hub import Hub

__all__ = ["Claimant", "Credits"]

_OVER_SLOTS = 1.25
"""In flight per slot: an engine queue of about one step, so that a free slot finds work."""
_SETTLE_SECONDS = 0.01


class Claimant(Protocol):
    """A session, as far as credits are concerned."""

    grant: Grant

    def claim(self) -> Claim:
        """What it has and wants."""
        ...

    def give(self, grant: Grant) -> None:
        """Its new limit."""
        ...


class Credits:
    """Divides the engine's capacity among the sessions; on the hub's loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._claimants: set[Claimant] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sequences(self) -> int:
        """All that may be in flight, sequences of this process's own requests taken off."""
        return max(1, math.ceil(_OVER_SLOTS * self._hub.info.slots) - self._hub.local_running)

    def join(self, claimant: Claimant) -> None:
        """A new session; its grant is set at once, the others follow."""
        self._claimants.add(claimant)
        self._divide(only=claimant)
        self.changed()

    def leave(self, claimant: Claimant) -> None:
        """A session is gone."""
        self._claimants.discard(claimant)
        self.changed()

    def changed(self) -> None:
        """Demand has changed: divide anew, together with what changes in the next moment."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SETTLE_SECONDS, self._divide)

    def claims(self) -> list[Claim]:
        """All claims, for the metrics."""
        return [claimant.claim() for claimant in self._claimants]

    def _divide(self, only: Claimant | None = None) -> None:
        if only is None:
            self._timer = None
        claimants = list(self._claimants)
        tokens = int(_OVER_SLOTS * self._hub.info.kv_tokens)
        limits = share([c.claim() for c in claimants], self.sequences, tokens)
        for claimant, limit in zip(claimants, limits, strict=True):
            old = claimant.grant
            if (old.sequences, old.tokens) != limit and only in (None, claimant):
                claimant.give(Grant(old.epoch + 1, *limit))
