"""Which cores vLLM's workers compute on, on a machine without a GPU, where its own choice fails.

vLLM gives each rank a process and the cores of a NUMA node of its own, and starts none where there
are fewer nodes than ranks. A single rank gets all cores of the first node but one, whatever
``OMP_NUM_THREADS`` says; that of another engine on the machine gets the same ones. On a GPU a
single rank computes in its engine's process; where there is one node, so it does here: an engine
starts in half the time, and is a process less.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

__all__ = ["BIND", "NOWHERE", "bound_cores", "is_in_engine", "numa_nodes"]

BIND: Final = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's variable: cores of each rank, separated by ``|``."""
NOWHERE: Final = "nobind"
"""Threads run where the kernel puts them; ``OMP_NUM_THREADS`` counts."""
_THREADS: Final = "OMP_NUM_THREADS"
_NODES: Final = Path("/sys/devices/system/node")


def is_in_engine(ranks: int, nodes: int, environment: Mapping[str, str]) -> bool:
    """Whether the only rank computes in its engine's process, which binds no thread to a core."""
    return ranks == nodes == 1 and BIND not in environment


def bound_cores(
    ranks: int,
    cores: Collection[int],
    nodes: int,
    environment: Mapping[str, str],
    engines: int = 1,
) -> dict[str, str]:
    """What to add to the environment of ``ranks`` workers; empty where vLLM chooses well, or where
    somebody has chosen. ``cores``: numbers of those that may be used, ``nodes``: how many nodes
    they belong to, ``engines``: how many of as many ranks share them."""
    if BIND in environment:
        return {}
    if _THREADS in environment:
        return {BIND: NOWHERE}
    if engines > 1 or is_in_engine(ranks, nodes, environment):
        # One is left for those who ask, as vLLM leaves one.
        return {BIND: NOWHERE, _THREADS: str(max(1, (len(cores) - 1) // (ranks * engines)))}
    if ranks <= nodes:
        return {}
    if ranks > len(cores):
        return {BIND: NOWHERE, _THREADS: "1"}
    ordered = sorted(cores)
    borders = [len(ordered) * rank // ranks for rank in range(ranks + 1)]
    parts = [ordered[begin:end] for begin, end in pairwise(borders)]
    return {BIND: "|".join(",".join(map(str, part)) for part in parts)}


def numa_nodes(cores: Iterable[int], folder: Path = _NODES) -> int:
    """How many nodes the cores belong to; 1 where nobody says."""
    found = {node.parent for core in cores for node in folder.glob(f"node[0-9]*/cpu{core}")}
    return max(1, len(found))
