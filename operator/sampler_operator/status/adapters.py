"""Which ready replica holds which declared adapter, and what the others say."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sampler_api.fleet import AdaptersConfig, AdapterState, DeclaredAdapter, ReplicaStatus

from ..objects import Manifest
from .conditions import Condition, ConditionType
from .fault import shortened
from .reasons import Reason
from .situation import Situation

__all__ = ["Adapters", "Holding"]

_TOLD = 3
"""Adapters that a message names."""


@dataclass(slots=True)
class Holding:
    """One declared adapter at the ready replicas; ``failures`` are sentences, a replica each."""

    adapter: DeclaredAdapter
    held: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def replicas(self) -> int:
        """Replicas that hold it."""
        return self.held.total()

    def entries(self) -> Iterator[Manifest]:
        """What the status says of it: one entry for each revision, at least one."""
        digests: list[str | None] = [*sorted(self.held)] or [self.adapter.digest]
        for place, digest in enumerate(digests):
            entry: Manifest = {"name": self.adapter.name}
            if digest is not None:
                entry["digest"] = digest
            entry["replicas"] = self.held[digest] if digest is not None else 0
            if place == 0 and self.failures:
                entry["message"] = self.failures[0]
            yield entry


@dataclass(slots=True)
class Adapters:
    """All declared adapters; ``replicas`` counts the ready ones. ``silent``: those that did not
    answer, and why; ``pending``: those that have not answered, or not yet taken the set in."""

    holdings: list[Holding]
    replicas: int = 0
    silent: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, situation: Situation) -> "Adapters":
        """As the replicas told it; who does not answer holds nothing."""
        config = situation.config
        made = cls([Holding(adapter) for adapter in config.declared])
        for pod in situation.observed.pods:
            if not pod.is_ready or pod.is_leaving:
                continue
            made.replicas += 1
            report = situation.reports.get(pod.name)
            if report is None or report.life != pod.life:
                made.pending.append(pod.name)
            elif report.status is None:
                made.silent.append(f"replica {pod.name}: {shortened(report.error)}")
            elif _speaks_of(report.status, config):
                made._count(pod.name, report.status)
            elif report.status.adapters_error:
                said = shortened(report.status.adapters_error)
                made.unread.append(f"replica {pod.name}: {said}")
            else:
                made.pending.append(pod.name)
        return made

    def _count(self, pod: str, status: ReplicaStatus) -> None:
        states = {state.name: state for state in status.declared}
        for holding in self.holdings:
            state = states.get(holding.adapter.name)
            if state is None:
                continue
            if _is_held(state, holding.adapter):
                holding.held[state.digest or ""] += 1
            elif state.state == "failed":
                holding.failures.append(f"replica {pod}: {shortened(state.message)}")

    def _is_everywhere(self, holding: Holding) -> bool:
        return self.replicas > 0 and holding.replicas == self.replicas

    @property
    def summary(self) -> str:
        """Adapters that every ready replica holds, of all: ``1/2``; empty when none is declared."""
        if not self.holdings:
            return ""
        return f"{sum(map(self._is_everywhere, self.holdings))}/{len(self.holdings)}"

    def entries(self) -> list[Manifest]:
        """What the status lists, in the order of the spec."""
        return [entry for holding in self.holdings for entry in holding.entries()]

    def condition(self, *, is_scaled_to_zero: bool = False) -> Condition:
        """``AdaptersReady``."""
        if not self.holdings:
            return _condition(True, Reason.NONE_DECLARED, "the spec declares no adapters")
        if is_scaled_to_zero:
            return _condition(
                False, Reason.SCALED_TO_ZERO, "no replica is wanted that could hold adapters"
            )
        if not self.replicas:
            return _condition(False, Reason.NO_REPLICAS, "no replica is ready to hold adapters")
        missing = [holding for holding in self.holdings if not self._is_everywhere(holding)]
        if not missing:
            said = f"all {len(self.holdings)} declared adapters are held by every ready replica"
            return _condition(True, Reason.ADAPTERS_HELD, said)
        broken = [holding for holding in missing if holding.failures]
        if broken:
            return _condition(False, Reason.ADAPTER_FAILED, self._told(broken))
        if self.unread:
            return _condition(False, Reason.ADAPTER_FAILED, self.unread[0])
        if self.silent:
            said = f"{len(self.silent)} of {self.replicas} ready replicas do not answer"
            return _condition(False, Reason.STATUS_UNREACHABLE, f"{said}; {self.silent[0]}")
        return _condition(False, Reason.ADAPTERS_LOADING, self._told(missing))

    def _told(self, holdings: list[Holding]) -> str:
        said = [self._sentence(holding) for holding in holdings[:_TOLD]]
        if len(holdings) > _TOLD:
            said.append(f"and {len(holdings) - _TOLD} more adapters")
        return "; ".join(said)

    def _sentence(self, holding: Holding) -> str:
        said = (
            f"adapter {holding.adapter.name} is held by {holding.replicas} of {self.replicas} ready"
            " replicas"
        )
        return f"{said}: {holding.failures[0]}" if holding.failures else said


def _condition(holds: bool, reason: Reason, message: str) -> Condition:
    return Condition(ConditionType.ADAPTERS_READY, holds, reason, message)


def _speaks_of(status: ReplicaStatus, config: AdaptersConfig) -> bool:
    """Whether the replica's account is of this set. It tells the set's hash once each adapter has
    been tried; while it loads, the names have to do."""
    if status.adapters_hash == config.declared_hash:
        return True
    is_loading = any(state.state == "loading" for state in status.declared)
    return is_loading and [s.name for s in status.declared] == [a.name for a in config.declared]


def _is_held(state: AdapterState, adapter: DeclaredAdapter) -> bool:
    return state.state == "held" and adapter.digest in (None, state.digest)
