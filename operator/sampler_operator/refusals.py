"""How long a fleet of which something was refused waits for the next attempt. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from .errors import ClusterError
from .names import Key

__all__ = ["FIRST_SECONDS", "LAST_SECONDS", "Refusals"]

FIRST_SECONDS = 10.0
LAST_SECONDS = 300.0
"""Doubled from the first to the last: a quota, a right or a kind that is missing may come, and no
watch tells it."""


class _Refusal(NamedTuple):
    generation: int
    refused: int
    delay: float
    due: float


class Refusals:
    """Of all fleets of one operator. Times are in seconds, of a clock that nobody sets back."""

    def __init__(self) -> None:
        self._known: dict[Key, _Refusal] = {}

    def wait(
        self, key: Key, generation: int, failures: Sequence[ClusterError], now: float
    ) -> float | None:
        """Seconds until the next attempt after one with these ``failures``; None without any.

        The delay begins anew with another generation of the spec, and when less is refused.
        Attempts that were made before their time, as something else had happened, leave it.
        """
        former = self._known.pop(key, None)
        if not failures:
            return None
        delay = FIRST_SECONDS
        if (
            former is not None
            and former.generation == generation
            and len(failures) >= former.refused
        ):
            if now < former.due:
                self._known[key] = former._replace(refused=len(failures))
                return former.due - now
            delay = min(2 * former.delay, LAST_SECONDS)
        self._known[key] = _Refusal(generation, len(failures), delay, now + delay)
        return delay

    def forget(self, key: Key) -> None:
        """The SamplerDeployment is gone."""
        self._known.pop(key, None)
