"""One row, from its fleet to its verdict."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from tests.cluster.cluster import Cluster
from tests.faults.figures import Figures
from tests.faults.goals import Verdict, judged
from tests.faults.rows import Row
from tests.faults.stage import Stage

__all__ = ["Outcome", "failed", "played"]


@dataclass(frozen=True)
class Outcome:
    """What a row has shown."""

    row: Row
    figures: Figures
    recovery_s: float | None
    observed: str
    verdict: Verdict
    date: str

    def as_json(self) -> dict[str, Any]:
        """An entry of docs/fault-matrix.json."""
        figures = msgspec.structs.asdict(self.figures)
        problems = figures.pop("problems")
        return {
            "name": self.row.name,
            "scenario": self.row.scenario,
            **figures,
            "recovery_s": self.recovery_s,
            "fault_observed": self.observed,
            "verdict": self.verdict.word,
            "failures": [*self.verdict.failures, *problems[:3]],
            "slow": list(self.verdict.slow),
            "date": self.date,
        }


def played(row: Row, cluster: Cluster, namespace: str, ledgers: Path, folder: Path) -> Outcome:
    """Play it. Raises AssertionError when something does not come about."""
    with Stage(cluster, namespace, row.name, ledgers, folder, row.changes(ledgers)) as stage:
        stage.start_load("--calls", str(row.calls), *row.settings, target=row.target)
        if row.with_http:
            stage.start_http_load()
        stage.wait_in_flight(row.calls)
        observed = row.fault(stage)
        figures = stage.finish(row.is_planned)
        verdict = judged(row.goals, figures, stage.recovery_s, observed)
        return Outcome(row, figures, stage.recovery_s, observed, verdict, _today())


def failed(row: Row, error: Exception) -> Outcome:
    """Of a row that did not come to its end: there are no figures."""
    told = f"{type(error).__name__}: {error}"
    return Outcome(row, Figures(), None, "", Verdict((told,)), _today())


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
