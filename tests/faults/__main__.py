"""The fault matrix: ``python -m tests.faults [ROW…]`` plays rows, all of them by default.

They share one cluster of two nodes, made for them; each has a fleet of its own. The first row is
always the control, in which nothing happens. The rows that were played take the place of their
former selves in docs/fault-matrix.json and docs/fault-matrix.md, whatever they have shown; the exit
code is 1 when one has failed.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from subprocess import SubprocessError
from typing import Final

from tests.cluster.cluster import Cluster
from tests.cluster.images import build
from tests.e2e_operator import install_operator, make_restricted
from tests.faults.matrix import renewed
from tests.faults.play import Outcome, failed, played
from tests.faults.render import rendered
from tests.faults.rows import CONTROL, ROWS, Row
from tests.faults.scenarios.devices import give_devices
from tests.faults.volume import make_claim

from sampler_api.errors import SamplerError

_DOCS: Final = Path(__file__).parent.parent.parent / "docs"
_NODES: Final = 2
_NAMESPACE: Final = "faults"


def play_all(rows: list[Row], folder: Path) -> list[Outcome]:
    """Each on its own fleet, one after another. What is known is written after each of them."""
    outcomes: list[Outcome] = []
    archives = [build(image).archive for image in ("sampler-operator", "sampler-sim")]
    with Cluster(_NODES, archives) as cluster:
        ledgers = cluster.folder / "ledgers"
        install_operator(cluster)
        make_restricted(cluster, _NAMESPACE)
        give_devices(cluster)
        make_claim(cluster.client, _NAMESPACE, ledgers)
        for row in rows:
            started = time.monotonic()
            try:
                outcome = played(row, cluster, _NAMESPACE, ledgers, folder)
            except (AssertionError, RuntimeError, OSError, SubprocessError, SamplerError) as error:
                outcome = failed(row, error)
            outcomes.append(outcome)
            seconds = time.monotonic() - started
            print(f"{row.name} ({seconds:.0f} s): {json.dumps(outcome.as_json())}", flush=True)
            _write(outcomes)
            assert not cluster.fallen, cluster.fallen
    return outcomes


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{_NODES} nodes on one machine of {cores} cores ({platform.machine()})"


def _write(outcomes: list[Outcome]) -> None:
    """Renew the rows that were played."""
    path = _DOCS / "fault-matrix.json"
    former = json.loads(path.read_text()) if path.exists() else {}
    names = [row.name for row in ROWS]
    matrix = renewed(former, [each.as_json() for each in outcomes], names, _machine())
    path.write_text(json.dumps(matrix, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(rendered(matrix))


def main() -> int:
    """Run it; the exit code."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(names))
    words = parser.parse_args()
    unknown = set(words.rows) - set(names)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    chosen = [row for row in ROWS if not words.rows or row.name in {CONTROL.name, *words.rows}]
    folder = Path(tempfile.mkdtemp(prefix="sampler-faults-"))
    print(f"journals and logs of clients are in {folder}", flush=True)
    outcomes = play_all(chosen, folder)
    return int(any(outcome.verdict.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
