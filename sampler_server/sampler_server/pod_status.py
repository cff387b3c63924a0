"""One account of several engines of a pod, for those who know pods only. Pure."""

import hashlib
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sampler_api.fleet import AdapterState, ReplicaStatus
from sampler_api.frames import Load, ModelCard

__all__ = ["merged_metrics", "merged_status"]

_BETTER: Final = ("failed", "loading", "held")
_MIXED: Final = "mixed"
"""Hash of adapters where engines differ: equal to nobody's."""


def merged_status(
    engines: Sequence[ReplicaStatus | None], replica: str, fleet: str, pid: int
) -> ReplicaStatus:
    """The pod is ready when all its engines are, and holds what all of them hold.

    ``None`` stands for an engine that does not answer. Counts are sums.
    """
    known = [engine for engine in engines if engine is not None]
    is_whole = len(known) == len(engines)
    card = _card(engines)
    reason = _reason(engines)
    if not reason and card is None:
        reason = f"engines serve different bases: {', '.join(sorted({str(e.base) for e in known}))}"
    hashes = {engine.adapters_hash for engine in known}
    held = [set(engine.held) for engine in known]
    return ReplicaStatus(
        ready=not reason,
        incarnation=_incarnation(engines),
        reason=reason,
        draining=any(engine.draining for engine in known),
        replica=replica,
        fleet=fleet,
        pid=pid,
        card=card,
        load=_load(known),
        adapters_hash=hashes.pop() if is_whole and len(hashes) == 1 else _MIXED,
        adapters_error=next((e.adapters_error for e in known if e.adapters_error), ""),
        declared=_declared(known),
        held=tuple(sorted(set.intersection(*held))) if is_whole and held else (),
        sessions=sum(engine.sessions for engine in known),
        kept_streams=sum(engine.kept_streams for engine in known),
        operations=tuple(sorted({name for engine in known for name in engine.operations})),
    )


def merged_metrics(engines: Sequence[str | None]) -> bytes:
    """Prometheus' text format of all engines, each sample with a label ``engine``: its number."""
    families: dict[str, Metric] = {}
    for number, text in enumerate(engines):
        for metric in text_string_to_metric_families(text or ""):
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            for sample in metric.samples:
                labels = {"engine": str(number), **sample.labels}
                family.add_sample(sample.name, labels, sample.value)

    class Families(Collector):
        def collect(self) -> list[Metric]:
            return list(families.values())

    registry = CollectorRegistry()
    registry.register(Families())
    return generate_latest(registry)


def _reason(engines: Sequence[ReplicaStatus | None]) -> str:
    for number, engine in enumerate(engines):
        if engine is None:
            return f"engine {number} does not answer"
        if not engine.ready:
            return f"engine {number}: {engine.reason}"
    return ""


def _card(engines: Sequence[ReplicaStatus | None]) -> ModelCard | None:
    """Only where all engines have loaded, and the same base."""
    cards = [engine.card if engine is not None else None for engine in engines]
    first = cards[0]
    if first is None or any(card is None or card.base != first.base for card in cards):
        return None
    return first


def _incarnation(engines: Sequence[ReplicaStatus | None]) -> str:
    """Another one whenever one of the engines is."""
    text = "+".join("" if engine is None else engine.incarnation for engine in engines)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _load(engines: Sequence[ReplicaStatus]) -> Load | None:
    loads = [engine.load for engine in engines if engine.load is not None]
    if not loads:
        return None
    return Load(
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        slots=sum(load.slots for load in loads),
        kv_used=sum(load.kv_used for load in loads),
        kv_total=sum(load.kv_total for load in loads),
        steps=sum(load.steps for load in loads),
    )


def _declared(engines: Sequence[ReplicaStatus]) -> tuple[AdapterState, ...]:
    """The worst state of each adapter; one that an engine has not heard of yet is loading there."""
    states = [{state.name: state for state in engine.declared} for engine in engines]
    names = dict.fromkeys(name for of_engine in states for name in of_engine)
    return tuple(
        _worst([s.get(name) or AdapterState(name, "loading") for s in states]) for name in names
    )


def _worst(states: Sequence[AdapterState]) -> AdapterState:
    worst = min(states, key=lambda state: _BETTER.index(state.state))
    digests = {state.digest for state in states}
    if worst.state == "held" and len(digests) > 1:
        found = ", ".join(sorted(map(str, digests)))
        message = f"engines of this pod hold different revisions: {found}"
        return AdapterState(worst.name, "failed", None, message=message)
    return worst
