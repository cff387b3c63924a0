"""What people see of a fleet that does not serve."""

import re

from tests.apiserver_client import Object
from tests.live_fleet import LiveFleet

__all__ = ["check_told", "scheduled_pod", "told"]


def scheduled_pod(fleet: LiveFleet) -> Object:
    """The only pod, when it has a node."""
    fleet.wait(lambda: [p for p in fleet.pods() if "nodeName" in p["spec"]], "its pod has a node")
    (pod,) = fleet.pods()
    return pod


def told(fleet: LiveFleet) -> tuple[str, str]:
    """Reason and message of the one row."""
    heading, row = fleet.kubectl("get", f"sd/{fleet.name}", "-o", "wide").splitlines()
    reason, message, image = (heading.index(name) for name in ("REASON", "MESSAGE", "IMAGE"))
    return row[reason:message].strip(), row[message:image].strip()


def check_told(fleet: LiveFleet, reason: str, message: str) -> None:
    """``Ready`` is False because of ``reason``, and people see it. ``message`` is a pattern; POD in
    it stands for the name of one of its pods."""
    pattern = re.compile(message.replace("POD", r"fleet-[a-z0-9]+-[a-z0-9]+"))

    def is_so() -> bool:
        found = fleet.condition("Ready")
        return (
            found.get("status") == "False"
            and found["reason"] == reason
            and pattern.fullmatch(found["message"]) is not None
        )

    fleet.wait(is_so, f"{reason}: {pattern.pattern}")
    shown = told(fleet)
    assert shown[0] == reason
    assert pattern.fullmatch(shown[1]), shown[1]
