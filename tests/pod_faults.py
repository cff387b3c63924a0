"""What a person is told of one pod of a fleet, for tests of faults."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.kube_objects import (
    NOW,
    fleet,
    situation,
    termination,
    waiting,
)

from sampler_operator.observed import PodView
from sampler_operator.status import Fault, pod_fault

__all__ = ["CRASH", "NAME", "fault_of"]

NAME = "fleet-a-1"
CRASH = waiting(
    "CrashLoopBackOff",
    "back-off 40s restarting failed container=server pod=fleet-a-1_rl(5f1c)",
    restarts=4,
    last=termination(
        1,
        "Error",
        "INFO loading\nTraceback (most recent call last):\n  File x\nValueError: no such dtype\n\n",
    ),
)


def fault_of(
    found: PodView,
    spec: Mapping[str, Any] | None = None,
    others: Sequence[PodView] = (),
    **more: Any,
) -> Fault | None:
    """The fault of ``found``, a pod of a fleet with this spec beside ``others``."""
    sd, seen = situation(fleet(spec), (found, *others), **more)
    return pod_fault(found, sd, seen, NOW)
