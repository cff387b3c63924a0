"""How often a child is made that goes as fast as it comes. Pure.

Where the end of a SamplerDeployment was missed, the garbage collector takes its children away at
once; so may somebody who wants one gone. A child that has gone is made again at once, and then
once a second.
"""

from .names import Key, Ref

__all__ = ["SECONDS", "Remakes"]

SECONDS = 1.0
_NEVER = float("-inf"), float("-inf")


class Remakes:
    """Of all fleets of one operator. Times are in seconds, of a clock that nobody sets back."""

    def __init__(self) -> None:
        self._made: dict[Key, dict[Ref, tuple[float, float]]] = {}
        """When a child that had not been there was made last, and the time before that."""

    def made(self, key: Key, ref: Ref, now: float) -> None:
        """A child that was not there has been made."""
        of_fleet = self._made.setdefault(key, {})
        of_fleet[ref] = now, of_fleet.get(ref, _NEVER)[0]

    def wait(self, key: Key, ref: Ref, now: float) -> float:
        """Seconds until a child that is not there may be made; 0 at once."""
        last, before = self._made.get(key, {}).get(ref, _NEVER)
        return 0.0 if last - before > SECONDS else max(0.0, last + SECONDS - now)

    def forget(self, key: Key) -> None:
        """The SamplerDeployment is gone."""
        self._made.pop(key, None)
