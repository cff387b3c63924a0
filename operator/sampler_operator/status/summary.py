"""The whole status of a SamplerDeployment."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .. import names
from ..objects import Manifest
from ..observed import Observed
from ..spec import SamplerDeployment
from . import verdicts
from .adapters import Adapters
from .conditions import Condition, ConditionType, merged, read
from .reasons import Reason
from .situation import Situation

__all__ = ["is_same_status", "state_of", "status"]


def status(sd: SamplerDeployment, situation: Situation, now: datetime) -> Manifest:
    """The status after a pass."""
    facts = verdicts.Facts.of(sd, situation, now)
    counts, adapters = facts.counts, Adapters.of(situation)
    conditions: tuple[Condition, ...] = (
        verdicts.accepted(facts),
        verdicts.ready(facts),
        verdicts.up_to_date(facts),
        verdicts.progressing(facts),
        adapters.condition(is_scaled_to_zero=counts.wanted == 0),
        verdicts.reconciling(facts),
        verdicts.stalled(facts),
    )
    former = _status_of(situation.observed)
    shareable = verdicts.shareable(sd, situation)
    if shareable is None:
        former = _without(former, ConditionType.VOLUMES_SHAREABLE)
    else:
        conditions = (*conditions, shareable)
    generation = sd.metadata.generation
    bases = sorted(situation.config.bases.items())
    return {
        "observedGeneration": generation,
        "replicas": counts.replicas,
        "readyReplicas": counts.ready,
        "updatedReplicas": counts.updated,
        "selector": f"{names.FLEET_LABEL}={sd.metadata.name}",
        "summary": f"{counts.ready}/{counts.wanted}",
        "adaptersSummary": adapters.summary,
        "engine": sd.spec.engine.kind,
        "image": _image(situation.plan.template.manifest),
        "conditions": merged(former, conditions, generation, now),
        "adapters": adapters.entries(),
        "bases": [{"template": template, "digest": digest} for template, digest in bases],
    }


def _image(template: Manifest) -> str:
    for container in template.get("spec", {}).get("containers", ()):
        if container.get("name") == names.CONTAINER:
            return str(container.get("image", ""))
    return ""


def _status_of(observed: Observed) -> Mapping[str, Any]:
    former: Mapping[str, Any] = observed.sd.get("status") or {}
    return former


def _without(status: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    found = status.get("conditions") or ()
    return {**status, "conditions": [each for each in found if each["type"] != kind]}


def state_of(made: Mapping[str, Any]) -> str:
    """One word for metrics: ``stalled``, ``progressing``, ``ready``, ``idle`` or ``unready``."""
    conditions = read(made)

    def holds(kind: ConditionType) -> bool:
        return conditions.get(str(kind), {}).get("status") == "True"

    if holds(ConditionType.STALLED):
        return "stalled"
    if holds(ConditionType.RECONCILING):
        return "progressing"
    if holds(ConditionType.READY):
        return "ready"
    is_idle = conditions.get(str(ConditionType.READY), {}).get("reason") == Reason.SCALED_TO_ZERO
    return "idle" if is_idle else "unready"


def is_same_status(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether there is nothing to write. Fields that are empty may be missing."""
    return _said(one) == _said(other)


def _said(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if value not in (None, "", [])}
