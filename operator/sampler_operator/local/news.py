"""What has changed between two states of a fleet, in lines for people. Pure."""

from collections.abc import Iterator
from typing import Any

from .state import FleetState, PodLine

__all__ = ["news"]

_TOLD = ("Accepted", "Ready", "UpToDate", "AdaptersReady", "Stalled")
_QUIET = {("Accepted", "True"), ("Stalled", "False")}


def news(before: FleetState | None, now: FleetState) -> Iterator[str]:
    """The lines; ``before`` is ``None`` at the start."""
    if now.error and (before is None or before.error != now.error):
        yield f"not taken in: {now.error}"
    generation = now.sd["metadata"]["generation"]
    if before is None or before.sd["metadata"]["generation"] != generation:
        yield f"fleet {now.name}, generation {generation} of its spec"
    known = {pod.name: pod for pod in before.pods} if before is not None else {}
    for pod in now.pods:
        yield from _pod_news(known.pop(pod.name, None), pod)
    for name in known:
        yield f"pod {name}: has ended"
    former = _conditions(before) if before is not None else {}
    for name, condition in _conditions(now).items():
        told = (condition["status"], condition["reason"], condition["message"])
        if name not in _TOLD or told == _told(former.get(name)):
            continue
        if name not in former and (name, condition["status"]) in _QUIET:
            continue
        text = f": {condition['message']}" if condition["message"] else ""
        yield f"{name}={condition['status']} ({condition['reason']}){text}"


def _told(condition: dict[str, Any] | None) -> tuple[Any, ...]:
    if condition is None:
        return ()
    return condition["status"], condition["reason"], condition["message"]


def _conditions(state: FleetState) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in state.sd.get("status", {}).get("conditions", ())}


def _pod_news(before: PodLine | None, now: PodLine) -> Iterator[str]:
    if before is None:
        yield f"pod {now.name}: starts, log {now.log}"
    if now.state == "Leaving":
        if before is None or before.state != "Leaving":
            yield f"pod {now.name}: leaves"
        return
    if now.ready and (before is None or not before.ready):
        yield f"pod {now.name}: is ready at {' '.join(now.urls)}"
    if not now.ready and before is not None and before.ready:
        yield f"pod {now.name}: is not ready any more"
    if before is not None:
        told = (now.state, now.message)
        if told != (before.state, before.message) and (now.message or "BackOff" in now.state):
            yield f"pod {now.name}: {now.state}{f': {now.message}' if now.message else ''}"
