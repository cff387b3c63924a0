"""A fault: why a replica does not serve, in a word and in a sentence."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import msgspec

from .reasons import Reason

__all__ = ["Fault", "Gravity", "by_weight", "last_line", "shortened", "told"]

_LONGEST: Final = 800
_ORDER: Final = {reason: place for place, reason in enumerate(Reason)}


class Gravity(IntEnum):
    """What has to happen before the replica serves."""

    WAITING = 0
    """Nothing: it is on its way."""
    HEALING = 1
    """It may pass: something is tried again, or others make room."""
    STUCK = 2
    """A person has to change something."""


class Fault(msgspec.Struct, frozen=True):
    """``pod`` is empty for a fault of the whole Deployment."""

    reason: Reason
    message: str
    gravity: Gravity = Gravity.HEALING
    pod: str = ""

    @property
    def sentence(self) -> str:
        """The message with the replica that it is about."""
        return f"replica {self.pod}: {self.message}" if self.pod else self.message


def by_weight(faults: Iterable[Fault]) -> list[Fault]:
    """The most telling fault first: what a person must change, then the earliest in the life of a
    pod; the same order for the same faults."""
    return sorted(faults, key=lambda f: (-f.gravity, _ORDER[f.reason], f.pod))


def told(faults: Iterable[Fault]) -> tuple[Fault, str] | None:
    """The most telling fault, and a sentence that also counts the others of its kind."""
    ordered = by_weight(faults)
    if not ordered:
        return None
    first = ordered[0]
    alike = sum(fault.reason == first.reason for fault in ordered) - 1
    return first, first.sentence + (f" ({alike} more alike)" if alike else "")


def shortened(text: str) -> str:
    """One line of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def last_line(text: str) -> str:
    """The last line that says something: the error of a traceback or log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else ""
