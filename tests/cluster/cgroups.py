"""Control groups of a node: one of its name in every hierarchy of the machine."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.proxy import wait_until

__all__ = ["cgroup_names", "create_cgroups", "pids_of_container", "remove_cgroups"]

_HIERARCHIES: Final = Path("/sys/fs/cgroup")
_END_SECONDS: Final = 20


def create_cgroups(name: str) -> None:
    """Make those of a node."""
    for hierarchy in _hierarchies():
        own = hierarchy / name
        own.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # Version 1 starts with none, in which nothing can run.
            if (hierarchy / setting).exists():
                (own / setting).write_text((hierarchy / setting).read_text())


def remove_cgroups(name: str) -> None:
    """Those of a node whose processes are gone, or are about to be."""
    wait_until(lambda: _removed(name), f"cgroups {name} are gone", _END_SECONDS)


def cgroup_names(beginning: str) -> set[str]:
    """Nodes whose names begin so, of which something is there."""
    return {found.name for at in _hierarchies() for found in at.glob(f"{beginning}*")}


def pids_of_container(name: str, container_id: str) -> list[int]:
    """Processes of a container on node ``name``, as the machine numbers them; its first one
    first."""
    # Any hierarchy with the kubelet's groups would do.
    for path in (_HIERARCHIES / "memory" / name).rglob(container_id):
        return sorted(int(line) for line in (path / "cgroup.procs").read_text().split())
    return []


def _hierarchies() -> Iterator[Path]:
    for path in _HIERARCHIES.iterdir():
        if path.is_dir() and not path.is_symlink() and path.is_mount():
            yield path


def _removed(name: str) -> bool:
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            # Its last process may not have ended yet.
            with suppress(OSError):
                Path(folder).rmdir()
    return not any((hierarchy / name).exists() for hierarchy in _hierarchies())
