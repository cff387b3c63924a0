"""The conditions of a fleet, from counts and faults. Each is a function of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from ..claims import shared_claims, unshareable
from ..errors import ClusterError, Denied, Missing, Refused
from ..names import deployment_name
from ..objects import key_of
from ..observed import DeploymentView
from ..spec import SamplerDeployment
from .conditions import Condition, ConditionType
from .controller import deadline_fault, is_rolled_out, refusal_fault
from .counts import Counts, newest_template
from .fault import Fault, Gravity, shortened, told
from .faults import pod_faults
from .reasons import Reason
from .situation import Situation

__all__ = [
    "Facts",
    "accepted",
    "progressing",
    "ready",
    "reconciling",
    "shareable",
    "stalled",
    "up_to_date",
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What all conditions are decided from. ``faults`` are of any pod, ``current`` those that the
    present spec answers for."""

    sd: SamplerDeployment
    counts: Counts
    deployment: DeploymentView | None
    faults: tuple[Fault, ...] = ()
    current: tuple[Fault, ...] = ()
    deadline: Fault | None = None
    failures: tuple[ClusterError, ...] = ()
    leaving: int = 0

    @classmethod
    def of(cls, sd: SamplerDeployment, situation: Situation, now: datetime) -> Self:
        """From what a pass has found."""
        child = situation.observed.deployment(deployment_name(key_of(sd)))
        deployment = child.deployment if child is not None else None
        pods = situation.observed.pods
        newest = newest_template(pods, deployment)
        is_current = {pod.name for pod in pods if pod.template == newest}
        found = pod_faults(sd, situation, now)
        refusal = refusal_fault(deployment)
        of_deployment = () if refusal is None else (refusal,)
        counts = Counts.of(sd, deployment)
        return cls(
            sd=sd,
            counts=counts,
            deployment=deployment,
            faults=(*of_deployment, *found),
            current=(
                *(of_deployment if counts.is_observed else ()),
                *(fault for fault in found if fault.pod in is_current),
            ),
            deadline=deadline_fault(deployment, sd),
            failures=situation.failures,
            leaving=sum(pod.is_leaving for pod in pods),
        )

    @property
    def has_pending_change(self) -> bool:
        """Some replica is not of the present pod template."""
        return not self.counts.exists or self.counts.updated != self.counts.replicas


def _condition(
    kind: ConditionType, holds: bool, reason: Reason, headline: str, fault: str = ""
) -> Condition:
    return Condition(kind, holds, reason, f"{headline}; {fault}" if fault else headline)


def accepted(facts: Facts) -> Condition:
    """Whether the cluster takes what the spec asks for."""
    kind = ConditionType.ACCEPTED
    lasting = [failure for failure in facts.failures if not failure.retryable]
    if not lasting:
        return _condition(kind, True, Reason.ACCEPTED, "the spec is valid")
    first = min(lasting, key=_order)
    more = f" (and {len(lasting) - 1} more)" if len(lasting) > 1 else ""
    return _condition(kind, False, _reason(first), shortened(first.message) + more)


def _order(failure: ClusterError) -> tuple[bool, str]:
    return _reason(failure) != Reason.INVALID_POD_TEMPLATE, failure.message


_INVALID: Final = frozenset({"400", "422", "500"})
"""HTTP statuses of a manifest that is wrong in itself (500 where a patch does not fit the schema);
what a quota or a webhook refuses may be as it should."""


def _reason(failure: ClusterError) -> Reason:
    match failure:
        case Denied():
            return Reason.FORBIDDEN
        case Missing():
            return Reason.MISSING_KIND
        case Refused(field="metadata.name"):
            return Reason.NAME_TAKEN
        case Refused(field=code) if code in _INVALID and _is_of_pods(failure):
            return Reason.INVALID_POD_TEMPLATE
        case _:
            return Reason.CHILD_REFUSED


def _is_of_pods(failure: ClusterError) -> bool:
    return failure.message.startswith("Deployment ")


def ready(facts: Facts) -> Condition:
    """Whether enough replicas serve, of whatever generation."""
    kind, counts = ConditionType.READY, facts.counts
    if counts.wanted == 0:
        return _condition(kind, False, Reason.SCALED_TO_ZERO, "spec.replicas is 0")
    headline = f"{counts.ready} of {counts.wanted} replicas ready"
    if counts.ready > counts.wanted:
        headline = f"{counts.ready} replicas ready, {counts.wanted} wanted"
    if counts.ready >= counts.least:
        return _condition(kind, True, Reason.SERVING, headline)
    reason, sentence = _cause(facts, facts.faults)
    return _condition(kind, False, reason, headline, sentence)


def _cause(facts: Facts, faults: Sequence[Fault]) -> tuple[Reason, str]:
    """Why replicas are missing: reason and sentence."""
    telling = told(faults)
    verdict = accepted(facts)
    if not verdict.holds and (telling is None or not facts.counts.exists):
        return verdict.reason, verdict.message
    if telling is not None:
        return telling[0].reason, telling[1]
    if not facts.counts.exists:
        return Reason.PENDING, "the Deployment does not exist yet"
    if facts.sd.spec.paused and not facts.counts.replicas:
        return Reason.PAUSED, "no replica starts while spec.paused is true"
    return Reason.PENDING, _leaving(facts) or "pods are being created"


def _leaving(facts: Facts) -> str:
    return f"waits for {facts.leaving} of its pods that are leaving" if facts.leaving else ""


def up_to_date(facts: Facts) -> Condition:
    """Whether all replicas are of the present spec and ready, and no others are left."""
    kind, counts = ConditionType.UP_TO_DATE, facts.counts
    verdict = accepted(facts)
    if not verdict.holds:
        return _condition(kind, False, verdict.reason, "not rolled out", verdict.message)
    if facts.failures:
        said = shortened(facts.failures[0].message)
        return _condition(kind, False, Reason.CLUSTER_UNAVAILABLE, "will be tried again", said)
    if counts.is_complete:
        said = f"{counts.wanted} of {counts.wanted} replicas are of this generation and ready"
        return _condition(
            kind, True, Reason.UP_TO_DATE, said if counts.wanted else "no replica is wanted"
        )
    step = progressing(facts)
    telling = told(fault for fault in facts.current if fault.gravity > Gravity.WAITING)
    if telling is not None and step.holds:
        return _condition(kind, False, telling[0].reason, _progress(counts), telling[1])
    return _condition(kind, False, step.reason, step.message)


def _progress(counts: Counts) -> str:
    if not counts.exists:
        return "the Deployment does not exist yet"
    if not counts.is_observed:
        return "the last change has not been taken up yet"
    said = f"{counts.updated} of {counts.wanted} replicas are of this generation"
    if counts.old:
        said += f", {counts.old} of former ones are left"
    return f"{said}, {counts.ready} ready" + (
        f", {counts.available} available" if counts.available != counts.ready else ""
    )


def progressing(facts: Facts) -> Condition:
    """Whether something changes by itself that is not done yet."""
    kind, counts = ConditionType.PROGRESSING, facts.counts
    if facts.deadline is not None and not counts.is_complete:
        telling = told(facts.current)
        sentence = telling[1] if telling is not None else ""
        return _condition(kind, False, facts.deadline.reason, facts.deadline.message, sentence)
    if counts.is_complete:
        return _condition(kind, False, Reason.COMPLETE, _progress(counts))
    if facts.sd.spec.paused and (facts.has_pending_change or not counts.replicas):
        said = "changes of the pod template wait until spec.paused is false"
        return _condition(kind, False, Reason.PAUSED, said)
    return _condition(kind, True, _step(facts), _progress(counts), _leaving(facts))


def _step(facts: Facts) -> Reason:
    counts, deployment = facts.counts, facts.deployment
    if deployment is None or not counts.is_observed or counts.old or not is_rolled_out(deployment):
        return Reason.ROLLING_OUT
    return Reason.SCALING if counts.replicas != counts.wanted else Reason.WAITING_FOR_REPLICAS


def stalled(facts: Facts) -> Condition:
    """Whether a person has to act (kstatus)."""
    kind, verdict = ConditionType.STALLED, accepted(facts)
    if not verdict.holds:
        return _condition(kind, True, verdict.reason, verdict.message)
    step = progressing(facts)
    if step.reason == Reason.PROGRESS_DEADLINE_EXCEEDED:
        return _condition(kind, True, step.reason, step.message)
    telling = told(facts.current)
    if telling is not None and telling[0].gravity == Gravity.STUCK and not facts.counts.is_complete:
        return _condition(kind, True, telling[0].reason, telling[1])
    return _condition(kind, False, Reason.NO_FAULT, "nothing needs a person")


def reconciling(facts: Facts) -> Condition:
    """Whether the operator is on its way to what the spec wants (kstatus); never beside Stalled."""
    kind, stall, goal = ConditionType.RECONCILING, stalled(facts), up_to_date(facts)
    if stall.holds:
        return _condition(kind, False, stall.reason, stall.message)
    if goal.holds:
        return _condition(kind, False, Reason.COMPLETE, goal.message)
    return _condition(kind, True, goal.reason, goal.message)


def shareable(sd: SamplerDeployment, situation: Situation) -> Condition | None:
    """False when replicas of several nodes cannot have a volume at once; else nothing is said."""
    told = unshareable(shared_claims(sd), situation.modes, sd.spec.replicas)
    if told is None:
        return None
    return Condition(
        ConditionType.VOLUMES_SHAREABLE, False, Reason.CLAIM_OF_ONE_NODE, shortened(told)
    )
