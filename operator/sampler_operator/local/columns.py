"""The columns that ``kubectl get -o wide`` shows, from the same source. Pure."""

import re
from datetime import datetime
from typing import Any, Final

from ..objects import Manifest
from ..schema.crd import crd

__all__ = ["age", "row"]

_FILTER: Final = re.compile(r'^(\w+)\[\?\(@\.(\w+)=="([^"]+)"\)\]$')
_STEP: Final = re.compile(r"\.((?:\[[^]]*\]|[^.\[])+)")


def row(sd: Manifest, now: datetime) -> dict[str, str]:
    """Cells by column, after the name."""
    cells = {"Name": str(sd["metadata"]["name"])}
    for column in crd()["spec"]["versions"][0]["additionalPrinterColumns"]:
        value = _at(sd, column["jsonPath"])
        if column["type"] == "date" and value:
            value = age(str(value), now)
        cells[column["name"]] = "" if value is None else str(value)
    return cells


def _at(value: Any, path: str) -> Any:
    for step in _STEP.findall(path):
        found = _FILTER.match(step)
        if found is not None:
            entries = value.get(found[1], ()) if isinstance(value, dict) else ()
            value = next((each for each in entries if each.get(found[2]) == found[3]), None)
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def age(since: str, now: datetime) -> str:
    """A duration as kubectl writes it: its two largest units while it is short."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 10:
        return f"{minutes}m{seconds}s" if seconds else f"{minutes}m"
    hours, minutes_left = divmod(minutes, 60)
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes_left}m" if minutes_left else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"
