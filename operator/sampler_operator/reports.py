"""What replicas say of themselves (``GET /status``): who has to be asked, and what is kept.

Steady replicas are never asked: only those that are new, that started again, or that have not yet
taken in the adapters that they should hold.
"""

from collections.abc import Mapping

import msgspec

from sampler_api.fleet import ReplicaStatus

from .observed import PodView

__all__ = [
    "FIRST_DELAY",
    "LAST_DELAY",
    "Report",
    "current",
    "has_unasked",
    "is_askable",
    "is_settled",
    "next_delay",
    "steady",
]

FIRST_DELAY = 0.5
LAST_DELAY = 10.0
"""Seconds between two questions to one replica: doubled from the first to the last."""


class Report(msgspec.Struct, frozen=True):
    """The last answer of a replica in one life (``PodView.life``); ``status`` is None when it could
    not be reached, and ``error`` says why."""

    life: str
    is_ready: bool
    """Whether the pod was ready when it was asked."""
    status: ReplicaStatus | None = None
    error: str = ""


def is_askable(pod: PodView) -> bool:
    """Whether somebody would answer."""
    if pod.is_leaving or not pod.ip:
        return False
    return pod.is_ready or any(c.is_running and not c.is_init for c in pod.containers)


def is_settled(pod: PodView, report: Report | None, adapters_hash: str) -> bool:
    """Whether the report is of this life and state of the pod, and says that it has taken in the
    adapters."""
    if report is None or report.status is None or report.life != pod.life:
        return False
    if report.is_ready != pod.is_ready or not pod.is_ready:
        return False
    status = report.status
    return status.adapters_hash == adapters_hash and all(
        state.state != "loading" for state in status.declared
    )


def has_unasked(pods: tuple[PodView, ...], reports: Mapping[str, Report]) -> bool:
    """Whether a ready replica has not yet been asked: the operator is new."""
    return any(pod.is_ready and is_askable(pod) and pod.name not in reports for pod in pods)


def next_delay(delay: float) -> float:
    """The pause after one more question."""
    return min(2 * delay, LAST_DELAY)


def current(pods: tuple[PodView, ...], reports: Mapping[str, Report]) -> dict[str, Report]:
    """The reports that still hold: of pods that exist, in their present life."""
    lives = {pod.name: pod.life for pod in pods}
    return {name: report for name, report in reports.items() if lives.get(name) == report.life}


def steady(status: ReplicaStatus) -> ReplicaStatus:
    """The status without what changes all the time: load, sessions, streams."""
    return msgspec.structs.replace(status, load=None, sessions=0, kept_streams=0, operations=())
