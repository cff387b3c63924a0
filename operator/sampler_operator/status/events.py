"""Events worth recording: what became of a fleet, once for each change and not for each pass."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..ports import Event
from .conditions import ConditionType, read
from .reasons import Reason

__all__ = ["events"]

_LONGEST: Final = 1024
"""What the API server takes as the message of an event."""

# The other conditions follow from these.
_TOLD: Final = (
    ConditionType.ACCEPTED,
    ConditionType.READY,
    ConditionType.PROGRESSING,
    ConditionType.ADAPTERS_READY,
    ConditionType.STALLED,
    ConditionType.VOLUMES_SHAREABLE,
)
_NORMAL: Final = frozenset(
    {
        Reason.ACCEPTED,
        Reason.SERVING,
        Reason.SCALED_TO_ZERO,
        Reason.COMPLETE,
        Reason.ROLLING_OUT,
        Reason.SCALING,
        Reason.WAITING_FOR_REPLICAS,
        Reason.PAUSED,
        Reason.NONE_DECLARED,
        Reason.ADAPTERS_HELD,
        Reason.ADAPTERS_LOADING,
        Reason.NO_REPLICAS,
        Reason.NO_FAULT,
        Reason.STARTING,
        Reason.PENDING,
    }
)
_SILENT: Final = frozenset({Reason.NONE_DECLARED, Reason.NO_FAULT, Reason.NO_REPLICAS})
"""What nobody has to be told."""


def events(
    old: Mapping[str, Any], new: Mapping[str, Any], details: Sequence[str]
) -> tuple[Event, ...]:
    """What to record when the status ``new`` follows ``old``. ``details`` say what
    has been written, a sentence each. A fault that several conditions give as their reason is told
    once."""
    before, after = read(old), read(new)
    found: dict[str, Event] = {}
    if details:
        found["Applied"] = Event("Normal", "Applied", "; ".join(details)[:_LONGEST])
    for event in _transitions(before, after):
        found.setdefault(event.reason, event)
    return tuple(found.values())


def _transitions(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Iterator[Event]:
    for kind in _TOLD:
        was, now = before.get(kind), after.get(kind)
        if now is None or (was is not None and _verdict(was) == _verdict(now)):
            continue
        reason = Reason(now["reason"])
        # A fleet that has just been made starts: that is no news.
        if reason in _SILENT or (was is None and reason in _NORMAL):
            continue
        is_loss = (
            kind == ConditionType.READY
            and reason != Reason.SCALED_TO_ZERO
            and (was is not None and was.get("status") == "True" and now["status"] == "False")
        )
        yield Event(
            "Normal" if reason in _NORMAL and not is_loss else "Warning",
            str(reason),
            str(now["message"])[:_LONGEST],
        )


def _verdict(condition: Mapping[str, Any]) -> tuple[Any, Any]:
    return condition.get("status"), condition.get("reason")
