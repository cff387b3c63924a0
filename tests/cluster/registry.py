"""Which clusters are on this machine, and what is left of those whose owner is gone.

An entry says which process owns a cluster. However that ends, it takes the cluster's processes
along; network, control groups and files stay, and are cleared away by whoever comes next.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

from tests.cluster.addresses import CLUSTERS, Addresses
from tests.cluster.cgroups import cgroup_names, remove_cgroups
from tests.cluster.network import remove_network

__all__ = ["Entry", "claim", "clear_leftovers", "clusters", "release"]

_FOLDER: Final = Path("/run/sampler-clusters")
# Mount points that nodes make on this machine.
_PLACES: Final = (
    *("/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni"),
    *("/var/log/pods", "/var/log/containers"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A cluster: its number, its files, and its owner with the time when that was started."""

    number: int
    folder: str
    owner: int
    started: str

    @property
    def addresses(self) -> Addresses:
        """Its names."""
        return Addresses(self.number)

    @property
    def is_owned(self) -> bool:
        """Its owner lives."""
        return _start_time(self.owner) == self.started


def claim(parent: Path) -> Entry:
    """A number that is free, for this process, with a new folder in ``parent``."""
    clear_leftovers()
    with _locked():
        taken = {entry.number for entry in clusters()}
        free = next((number for number in range(CLUSTERS) if number not in taken), None)
        if free is None:
            raise RuntimeError(f"{CLUSTERS} clusters run already; see {_FOLDER}")
        folder = parent / Addresses(free).name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        entry = Entry(free, str(folder), os.getpid(), _start_time(os.getpid()))
        _path(free).write_text(json.dumps(asdict(entry)))
    return entry


def release(entry: Entry) -> None:
    """Clear away what is there of a cluster whose processes are gone."""
    with _locked():
        _release(entry)


def clear_leftovers() -> list[Entry]:
    """Release clusters whose owners are gone."""
    with _locked():
        left = [entry for entry in clusters() if not entry.is_owned]
        for entry in left:
            _release(entry)
    return left


def clusters() -> list[Entry]:
    """All of this machine, also those of other checkouts."""
    return [Entry(**json.loads(path.read_text())) for path in sorted(_FOLDER.glob("*.json"))]


def _release(entry: Entry) -> None:
    at = entry.addresses
    for name in cgroup_names(f"{at.name}-"):
        remove_cgroups(name)
    remove_network(at)
    shutil.rmtree(entry.folder, ignore_errors=True)
    _path(entry.number).unlink(missing_ok=True)
    # Without such a folder nothing is mounted there any more, in whatever namespace: a node that
    # lives would go on with the files of this machine.
    if not clusters():
        for place in _PLACES:
            with suppress(OSError):
                Path(place).rmdir()


def _path(number: int) -> Path:
    return _FOLDER / f"{Addresses(number).name}.json"


@contextmanager
def _locked() -> Iterator[None]:
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def _start_time(pid: int) -> str:
    """Empty if there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The name, in parentheses, may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    return ""
