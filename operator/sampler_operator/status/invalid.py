"""The status of a SamplerDeployment whose spec cannot be meant: what runs goes on, and is told."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import InvalidSpec
from ..names import Key, deployment_name
from ..objects import Manifest
from ..observed import Observed
from .conditions import Condition, ConditionType, merged
from .counts import Counts
from .fault import shortened
from .reasons import Reason

__all__ = ["invalid_status", "not_understood"]


def not_understood(fields: Sequence[str]) -> InvalidSpec:
    """The spec has fields of a newer operator, and they may concern its pods."""
    said = "unknown to this operator, which starts no pods of a spec that it understands in part"
    return InvalidSpec(
        f"{', '.join(fields)}: {said}; upgrade the operator, or remove the field", fields[0]
    )


def invalid_status(observed: Observed, error: InvalidSpec, now: datetime) -> Manifest:
    """Nothing is changed for such a spec. Counts and ``Ready`` are of the Deployment that there is,
    by its own measures; the other conditions of a former spec stay as they were."""
    former: Mapping[str, Any] = observed.sd.get("status") or {}
    counts, said = _counts(observed), shortened(error.message)
    verdicts = {
        ConditionType.ACCEPTED: False,
        ConditionType.UP_TO_DATE: False,
        ConditionType.RECONCILING: False,
        ConditionType.STALLED: True,
    }
    conditions = [Condition(kind, v, Reason.INVALID_SPEC, said) for kind, v in verdicts.items()]
    told: Manifest = {}
    if counts.exists:
        conditions.append(_ready(counts))
    else:
        conditions.append(Condition(ConditionType.READY, False, Reason.INVALID_SPEC, said))
    if counts.exists or "replicas" in former:
        told = {
            "replicas": counts.replicas,
            "readyReplicas": counts.ready,
            "updatedReplicas": counts.updated,
            "summary": f"{counts.ready}/{counts.wanted}",
        }
    generation = int(observed.sd["metadata"].get("generation", 0))
    return {
        **former,
        **told,
        "observedGeneration": generation,
        "conditions": merged(former, conditions, generation, now),
    }


def _counts(observed: Observed) -> Counts:
    meta = observed.sd["metadata"]
    child = observed.deployment(deployment_name(Key(meta.get("namespace", ""), meta["name"])))
    is_own = child is not None and child.owner == meta.get("uid")
    return Counts.as_applied(child if is_own else None)


def _ready(counts: Counts) -> Condition:
    if counts.wanted == 0:
        return Condition(
            ConditionType.READY, False, Reason.SCALED_TO_ZERO, "the former spec wants no replica"
        )
    holds = counts.ready >= counts.least
    return Condition(
        ConditionType.READY,
        holds,
        Reason.SERVING if holds else Reason.WAITING_FOR_REPLICAS,
        f"{counts.ready} of {counts.wanted} replicas of the former spec ready",
    )
