"""Conditions in the shape that all of Kubernetes has."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from ..objects import Manifest
from .reasons import Reason

__all__ = ["Condition", "ConditionType", "merged", "read"]

_LONGEST: Final = 4096


class ConditionType(StrEnum):
    """Every condition, in the order in which they are listed."""

    ACCEPTED = "Accepted"
    READY = "Ready"
    UP_TO_DATE = "UpToDate"
    PROGRESSING = "Progressing"
    ADAPTERS_READY = "AdaptersReady"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    VOLUMES_SHAREABLE = "VolumesShareable"


class Condition(msgspec.Struct, frozen=True):
    """A claim, whether it holds, and why."""

    type: ConditionType
    holds: bool
    reason: Reason
    message: str

    @property
    def status(self) -> Literal["True", "False"]:
        """As Kubernetes writes it."""
        return "True" if self.holds else "False"


def read(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of a status by type."""
    found: Iterable[Mapping[str, Any]] = status.get("conditions") or ()
    return {str(condition["type"]): condition for condition in found}


def merged(
    former: Mapping[str, Any], conditions: Iterable[Condition], generation: int, now: datetime
) -> list[Manifest]:
    """Conditions as the status has them. ``former`` is the status before: a transition time moves
    only when the condition's status does, and conditions that are not given stay as they were."""
    before = read(former)
    given = {str(condition.type): condition for condition in conditions}
    made: list[Manifest] = []
    for name in (str(each) for each in ConditionType):
        if name in given:
            made.append(_manifest(given[name], before.get(name), generation, now))
        elif name in before:
            made.append(dict(before[name]))
    return made


def _manifest(
    condition: Condition, before: Mapping[str, Any] | None, generation: int, now: datetime
) -> Manifest:
    is_same = before is not None and before.get("status") == condition.status
    since = before.get("lastTransitionTime") if before is not None and is_same else None
    return {
        "type": str(condition.type),
        "status": condition.status,
        "observedGeneration": generation,
        "lastTransitionTime": since or now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": str(condition.reason),
        "message": condition.message[:_LONGEST],
    }
