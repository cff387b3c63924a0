"""Which refused writes are not tried again yet. Pure.

A quota, a right or a kind that is missing may come, and no watch tells it: what was refused is
tried again after a while, and not for whatever else happens to its fleet. Another manifest is
tried at once.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .errors import ClusterError
from .names import Key, Ref

__all__ = ["FIRST_SECONDS", "LAST_SECONDS", "Attempt", "Refusals"]

FIRST_SECONDS = 10.0
LAST_SECONDS = 300.0
"""Between two attempts at one write: doubled from the first to the last."""


class Attempt(NamedTuple):
    """A write that was tried: the digest of its manifest (empty for a deletion), and what came of
    it."""

    digest: str
    error: ClusterError | None


class _Refusal(NamedTuple):
    digest: str
    error: ClusterError
    delay: float
    due: float


class Refusals:
    """Of all fleets of one operator. Times are in seconds, of a clock that nobody sets back."""

    def __init__(self) -> None:
        self._known: dict[Key, dict[Ref, _Refusal]] = {}

    def held(self, key: Key, wanted: Mapping[Ref, str], now: float) -> dict[Ref, ClusterError]:
        """Of the writes that are ``wanted``, by digest, those that are not due, each with its last
        error. What is not wanted any more is forgotten."""
        known = {
            ref: refusal
            for ref, refusal in self._known.pop(key, {}).items()
            if wanted.get(ref) == refusal.digest
        }
        if known:
            self._known[key] = known
        return {ref: refusal.error for ref, refusal in known.items() if now < refusal.due}

    def tried(self, key: Key, attempts: Mapping[Ref, Attempt], now: float) -> None:
        """These writes were tried. The delay of all begins anew when one that had been refused is
        taken: more of them may be by now."""
        former = self._known.pop(key, {})
        eased = any(each.error is None and ref in former for ref, each in attempts.items())
        known = {ref: refusal for ref, refusal in former.items() if ref not in attempts}
        if eased:
            due = now + FIRST_SECONDS
            known = {
                ref: refusal._replace(delay=FIRST_SECONDS, due=min(refusal.due, due))
                for ref, refusal in known.items()
            }
        for ref, (digest, error) in attempts.items():
            if error is None or error.retryable:
                continue
            delay, before = FIRST_SECONDS, former.get(ref)
            # Words may tell the time, or how much of a quota is used.
            if before is not None and not eased and type(before.error) is type(error):
                delay = min(2 * before.delay, LAST_SECONDS)
            known[ref] = _Refusal(digest, error, delay, now + delay)
        if known:
            self._known[key] = known

    def wait(self, key: Key, now: float) -> float | None:
        """Seconds until the first of them is due; None without any."""
        known = self._known.get(key)
        return max(0.0, min(each.due for each in known.values()) - now) if known else None

    def forget(self, key: Key) -> None:
        """The SamplerDeployment is gone."""
        self._known.pop(key, None)
