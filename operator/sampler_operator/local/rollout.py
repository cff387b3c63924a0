"""What a Deployment does next: which pods start and which leave. Pure.

The rules are those of Kubernetes' Deployment controller: pods that leave count for nothing, except
that ``Recreate`` waits until the last one is gone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

__all__ = ["PodState", "Step", "Wanted", "next_step"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Deployment asks for, in pods; ``template`` is a hash. ``released``: templates that
    were rolled out so far, the newest last (a cluster has a ReplicaSet of each)."""

    replicas: int
    template: str
    max_surge: int = 0
    max_unavailable: int = 1
    is_recreated: bool = False
    is_paused: bool = False
    released: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: Mapping[str, Any], template: str, released: tuple[str, ...] = ()) -> "Wanted":
        """From the spec of a Deployment."""
        replicas = int(spec.get("replicas", 1))
        strategy = spec.get("strategy") or {}
        rolling = strategy.get("rollingUpdate") or {}
        surge = _pods(rolling.get("maxSurge", "25%"), replicas, ceil)
        unavailable = _pods(rolling.get("maxUnavailable", "25%"), replicas, floor)
        if surge == unavailable == 0:
            # Percentages of few replicas may both round to nothing; nothing would ever move.
            unavailable = 1
        return cls(
            replicas=replicas,
            template=template,
            max_surge=surge,
            max_unavailable=min(unavailable, replicas),
            is_recreated=strategy.get("type") == "Recreate",
            is_paused=bool(spec.get("paused")),
            released=released,
        )


def _pods(amount: int | str, replicas: int, rounded: Any) -> int:
    if isinstance(amount, int):
        return amount
    return int(rounded(int(amount.removesuffix("%")) * replicas / 100))


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod as far as a rollout cares; ``number`` counts up with each pod that is made."""

    name: str
    template: str
    number: int
    is_ready: bool = False
    is_available: bool = False
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Start ``count`` pods of a template, and let pods leave."""

    template: str = ""
    count: int = 0
    leaving: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count > 0 or bool(self.leaving)


def next_step(wanted: Wanted, pods: Sequence[PodState]) -> Step:
    """One step; an empty one when there is nothing to do before a pod changes."""
    active = [pod for pod in pods if not pod.is_leaving]
    old = [pod for pod in active if pod.template != wanted.template]
    if wanted.is_paused:
        return _paused(wanted, active, old)
    if wanted.is_recreated:
        if old:
            return Step(leaving=tuple(pod.name for pod in old))
        if any(pod.template != wanted.template for pod in pods):
            return Step()
    if not old:
        return _scaled(wanted.template, active, wanted.replicas)
    return _rolled(wanted, active, old)


def _paused(wanted: Wanted, active: Sequence[PodState], old: Sequence[PodState]) -> Step:
    """What was rolled out is scaled, and nothing is rolled out."""
    templates = {pod.template for pod in active}
    if not templates:
        template = wanted.template
        if template not in wanted.released:
            template = wanted.released[-1] if wanted.released else ""
        return Step(template, wanted.replicas) if template else Step()
    if len(templates) == 1:
        return _scaled(active[0].template, active, wanted.replicas)
    # In the midst of a rollout; its surge stays.
    if sum(pod.is_available for pod in active if pod not in old) >= wanted.replicas:
        return Step(leaving=tuple(pod.name for pod in old))
    return _scaled(_main_template(active), active, wanted.replicas + wanted.max_surge)


def _main_template(active: Sequence[PodState]) -> str:
    return Counter(pod.template for pod in active).most_common(1)[0][0]


def _scaled(template: str, active: Sequence[PodState], replicas: int) -> Step:
    missing = replicas - len(active)
    if missing >= 0:
        return Step(template, missing)
    return Step(leaving=_first_to_leave(active)[:-missing])


def _rolled(wanted: Wanted, active: Sequence[PodState], old: Sequence[PodState]) -> Step:
    new = [pod for pod in active if pod.template == wanted.template]
    if len(new) > wanted.replicas:
        return Step(leaving=_first_to_leave(new)[: len(new) - wanted.replicas])
    room = min(wanted.replicas + wanted.max_surge - len(active), wanted.replicas - len(new))
    if room > 0:
        return Step(wanted.template, room)
    least = wanted.replicas - wanted.max_unavailable
    new_unavailable = sum(not pod.is_available for pod in new)
    spare = max(0, len(active) - least - new_unavailable)
    # Old pods that do not serve are no loss.
    leaving = _first_to_leave([pod for pod in old if not pod.is_available])[:spare]
    available = sum(pod.is_available for pod in active)
    more = max(0, min(available - least, spare - len(leaving)))
    leaving += _first_to_leave([pod for pod in old if pod.is_available])[:more]
    return Step(leaving=leaving)


def _first_to_leave(pods: Sequence[PodState]) -> tuple[str, ...]:
    """Those that serve least first, the youngest first among equals."""
    ordered = sorted(pods, key=lambda pod: (pod.is_available, pod.is_ready, -pod.number))
    return tuple(pod.name for pod in ordered)
