"""Which cores vLLM's ranks are given on a machine without a GPU."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sampler_server.engines.vllm.cores import BIND, NOWHERE, bound_cores, numa_nodes


@pytest.mark.parametrize(
    ("ranks", "cores", "nodes", "environment", "added"),
    [
        pytest.param(1, range(8), 1, {}, {}, id="one rank has the place that vLLM chooses"),
        pytest.param(2, range(8), 2, {}, {}, id="as many nodes as ranks are vLLM's to share out"),
        pytest.param(2, (1, 0), 1, {}, {BIND: "0|1"}, id="a core each"),
        pytest.param(2, range(4, 9), 1, {}, {BIND: "4,5|6,7,8"}, id="each core belongs to one"),
        pytest.param(3, range(8), 2, {}, {BIND: "0,1|2,3,4|5,6,7"}, id="more ranks than nodes"),
        pytest.param(
            2, (5,), 1, {}, {BIND: NOWHERE, "OMP_NUM_THREADS": "1"}, id="more ranks than cores"
        ),
        pytest.param(
            2,
            range(8),
            1,
            {"OMP_NUM_THREADS": "3"},
            {BIND: NOWHERE},
            id="who says how many threads there are gets so many",
        ),
        pytest.param(2, range(8), 1, {BIND: "0|7"}, {}, id="who says which cores gets these"),
    ],
)
def test_cores_of_ranks(
    ranks: int,
    cores: tuple[int, ...],
    nodes: int,
    environment: Mapping[str, str],
    added: Mapping[str, str],
) -> None:
    assert bound_cores(ranks, cores, nodes, environment) == added


def test_nodes_are_those_of_the_cores_that_may_be_used(tmp_path: Path) -> None:
    for node, cores in {"node0": (0, 1), "node1": (2, 3)}.items():
        for core in cores:
            (tmp_path / node / f"cpu{core}").mkdir(parents=True)
    assert numa_nodes([0, 1], tmp_path) == 1
    assert numa_nodes([1, 2], tmp_path) == 2
    assert numa_nodes([0], tmp_path / "nothing") == 1
