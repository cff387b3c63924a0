"""How many replicas there are, how many are wanted, and how many may be missing."""

from dataclasses import dataclass
from typing import Self

from ..observed import ChildView, DeploymentView, PodView
from ..spec import SamplerDeployment

__all__ = ["Counts", "max_unavailable", "newest_template"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a Deployment beside what the spec wants. ``is_observed``: the Deployment's own
    controller has seen its last change, so that its counts are of the present template."""

    wanted: int
    least: int
    """So many must be ready for the fleet to serve."""
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    exists: bool = False
    is_observed: bool = False

    @classmethod
    def of(cls, sd: SamplerDeployment, deployment: DeploymentView | None) -> Self:
        """``deployment`` is None before it exists."""
        wanted = sd.spec.replicas
        return cls._of(wanted, max_unavailable(sd), deployment)

    @classmethod
    def as_applied(cls, child: ChildView | None) -> Self:
        """By what the Deployment itself wants, whatever the spec says now."""
        if child is None:
            return cls(0, 1)
        spec = child.manifest().get("spec") or {}
        rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
        wanted = int(spec.get("replicas", 1))
        missing = _missing_at_most(
            rolling.get("maxSurge", 0), rolling.get("maxUnavailable", 1), wanted
        )
        return cls._of(wanted, missing, child.deployment)

    @classmethod
    def _of(cls, wanted: int, missing: int, deployment: DeploymentView | None) -> Self:
        least = max(1, wanted - missing)
        if deployment is None:
            return cls(wanted, least)
        return cls(
            wanted=wanted,
            least=least,
            replicas=deployment.replicas,
            updated=deployment.updated,
            ready=deployment.ready,
            available=deployment.available,
            exists=True,
            is_observed=deployment.observed_generation >= deployment.generation,
        )

    @property
    def old(self) -> int:
        """Replicas of former templates."""
        return max(0, self.replicas - self.updated)

    @property
    def is_complete(self) -> bool:
        """All replicas are of the present template and ready, and no others are left."""
        counts = (self.replicas, self.updated, self.ready, self.available)
        return self.exists and self.is_observed and all(n == self.wanted for n in counts)


def max_unavailable(sd: SamplerDeployment) -> int:
    """Replicas that may be missing."""
    rollout = sd.spec.rollout
    return _missing_at_most(rollout.max_surge, rollout.max_unavailable, sd.spec.replicas)


def _missing_at_most(surge: int | str, unavailable: int | str, replicas: int) -> int:
    """Kubernetes' rules: a percentage of surge is rounded up, of unavailable ones down, and if both
    come to nothing, one may be missing."""
    least = _pods(unavailable, replicas, is_rounded_up=False)
    more = _pods(surge, replicas, is_rounded_up=True)
    return min(least or (0 if more else 1), replicas)


def _pods(amount: int | str, replicas: int, *, is_rounded_up: bool) -> int:
    if isinstance(amount, int):
        return amount
    hundredths = int(amount.removesuffix("%")) * replicas
    return -(-hundredths // 100) if is_rounded_up else hundredths // 100


def newest_template(pods: tuple[PodView, ...], deployment: DeploymentView | None) -> str | None:
    """The pod-template hash of the present spec; None while it has no pods.

    The Deployment tells only how many such pods there are: of the templates with so many pods it is
    the one that was last used for a pod.
    """
    if deployment is None or deployment.observed_generation < deployment.generation:
        return None
    active = [
        pod for pod in pods if not pod.is_leaving and pod.phase not in ("Failed", "Succeeded")
    ]
    tally: dict[str, int] = {}
    for pod in sorted(active, key=lambda pod: (pod.created, pod.name)):
        tally[pod.template] = tally.pop(pod.template, 0) + 1
    fitting = [name for name, number in tally.items() if number == deployment.updated]
    return fitting[-1] if fitting else None
