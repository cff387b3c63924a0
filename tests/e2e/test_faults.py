"""The most telling third of the fault matrix; ``make fault-matrix`` plays all of it."""

import json
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.faults.play import played
from tests.faults.rows import ROWS, Row
from tests.faults.volume import make_claim


@pytest.fixture
def ledgers(own_cluster: Cluster, restricted: str) -> Path:
    """The folder of this machine to which replicas write down what they make."""
    folder = own_cluster.folder / "ledgers"
    if not folder.exists():
        make_claim(own_cluster.client, restricted, folder)
    return folder


@pytest.mark.timeout(600)  # fleets come and go, nodes too; a busy machine needs long for it
@pytest.mark.parametrize("row", [pytest.param(row, id=row.scenario) for row in ROWS if row.in_tier])
def test_sampling_goes_on_without_loss(
    row: Row,
    own_cluster: Cluster,
    restricted: str,
    ledgers: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = played(row, own_cluster, restricted, ledgers, tmp_path)
    with capsys.disabled():
        print(f"\n  {json.dumps(outcome.as_json(), ensure_ascii=False)}")
    assert not outcome.verdict.failures, (outcome.verdict.failures, outcome.figures.problems)
