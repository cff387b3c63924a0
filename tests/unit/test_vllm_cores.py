"""Which cores vLLM's ranks are given on a machine without a GPU."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sampler_server.engines.vllm.cores import (
    BIND,
    NOWHERE,
    bound_cores,
    is_in_engine,
    numa_nodes,
)

THREADS = "OMP_NUM_THREADS"


@pytest.mark.parametrize(
    ("ranks", "cores", "nodes", "environment", "added"),
    [
        pytest.param(1, range(8), 2, {}, {}, id="one rank has the node that vLLM chooses"),
        pytest.param(
            1,
            range(8),
            1,
            {},
            {BIND: NOWHERE, THREADS: "7"},
            id="one rank leaves a core to those who ask",
        ),
        pytest.param(
            1, (3,), 1, {}, {BIND: NOWHERE, THREADS: "1"}, id="one rank has the only core"
        ),
        pytest.param(2, range(8), 2, {}, {}, id="as many nodes as ranks are vLLM's to share out"),
        pytest.param(2, (1, 0), 1, {}, {BIND: "0|1"}, id="a core each"),
        pytest.param(2, range(4, 9), 1, {}, {BIND: "4,5|6,7,8"}, id="each core belongs to one"),
        pytest.param(3, range(8), 2, {}, {BIND: "0,1|2,3,4|5,6,7"}, id="more ranks than nodes"),
        pytest.param(2, (5,), 1, {}, {BIND: NOWHERE, THREADS: "1"}, id="more ranks than cores"),
        pytest.param(
            2,
            range(8),
            1,
            {THREADS: "3"},
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


@pytest.mark.parametrize(
    ("ranks", "nodes", "environment", "is_one_process"),
    [
        pytest.param(1, 1, {}, True, id="one rank on one node"),
        pytest.param(1, 1, {THREADS: "3"}, True, id="so many threads"),
        pytest.param(1, 2, {}, False, id="a node is to be chosen"),
        pytest.param(2, 1, {}, False, id="a process for each of two ranks"),
        pytest.param(1, 1, {BIND: "0-3"}, False, id="vLLM binds the threads of a worker only"),
    ],
)
def test_one_rank_needs_no_process_of_its_own(
    ranks: int, nodes: int, environment: Mapping[str, str], is_one_process: bool
) -> None:
    assert is_in_engine(ranks, nodes, environment) == is_one_process


@pytest.mark.parametrize(
    ("ranks", "nodes", "threads"),
    [
        pytest.param(1, 1, "5", id="three engines on one node"),
        pytest.param(1, 2, "5", id="on two nodes, vLLM would give all of them the first"),
        pytest.param(2, 2, "2", id="of two ranks each"),
        pytest.param(8, 1, "1", id="with more ranks than cores"),
    ],
)
def test_engines_of_a_pod_share_its_cores(ranks: int, nodes: int, threads: str) -> None:
    added = {BIND: NOWHERE, THREADS: threads}
    assert bound_cores(ranks, range(16), nodes, {}, engines=3) == added


def test_nodes_are_those_of_the_cores_that_may_be_used(tmp_path: Path) -> None:
    for node, cores in {"node0": (0, 1), "node1": (2, 3)}.items():
        for core in cores:
            (tmp_path / node / f"cpu{core}").mkdir(parents=True)
    assert numa_nodes([0, 1], tmp_path) == 1
    assert numa_nodes([1, 2], tmp_path) == 2
    assert numa_nodes([0], tmp_path / "nothing") == 1
