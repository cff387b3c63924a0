"""How long a replica that cannot serve anybody is left alone. Pure: time is passed in, in ticks."""

__all__ = ["Backoff"]

_MOST_DOUBLINGS = 16


class Backoff:
    """Rests of one replica, each twice as long as the one before until something succeeds."""

    __slots__ = ("_failures", "_until", "is_resting")

    def __init__(self) -> None:
        self.is_resting = False
        self._failures = 0
        self._until = 0

    def fail(self, now: int, shortest: int, longest: int) -> bool:
        """Whether a rest begins. What fails during one was sent before it, and adds nothing."""
        if self.is_resting:
            return False
        self._until = now + min(shortest << min(self._failures, _MOST_DOUBLINGS), longest)
        self._failures += 1
        self.is_resting = True
        return True

    def succeed(self) -> None:
        """The next rest is a short one again."""
        self._failures = 0

    def has_rested(self, now: int) -> bool:
        """Whether a rest ends now."""
        if not self.is_resting or now < self._until:
            return False
        self.is_resting = False
        return True
