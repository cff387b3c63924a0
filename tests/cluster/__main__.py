"""A cluster that stays: ``python -m tests.cluster up|down``; process ``hold`` is its owner."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.cluster.cluster import FOLDER, Cluster
from tests.cluster.images import build
from tests.cluster.registry import clear_leftovers, clusters
from tests.kube_tools import kube_tool
from tests.proxy import wait_until

_KEPT: Final = FOLDER / "kept.json"
_LOG: Final = FOLDER / "kept.log"
_IMAGES: Final = ("sampler-operator", "sampler-sim", "sampler-job")
_START_SECONDS: Final = 600
_END_SECONDS: Final = 60


def up(nodes: int) -> None:
    """Start one in the background, unless there is one; print how to reach it."""
    if _owner() is None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        _KEPT.unlink(missing_ok=True)
        started = time.monotonic()
        with _LOG.open("w") as log:
            holder = subprocess.Popen(
                (sys.executable, "-m", "tests.cluster", "hold", f"--nodes={nodes}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def is_up() -> bool:
            if holder.poll() is not None:
                sys.exit(f"the cluster has not started:\n{_LOG.read_text()}")
            return _KEPT.exists()

        wait_until(is_up, "the cluster is up", _START_SECONDS, 0.1)
        print(f"up after {time.monotonic() - started:.0f} s")
    kubeconfig = json.loads(_KEPT.read_text())["kubeconfig"]
    print(f"alias k='{kube_tool('kubectl')} --kubeconfig {kubeconfig}'")
    print(f"E2E_KUBECONFIG={kubeconfig} make test-e2e")


def hold(nodes: int) -> None:
    """Have a cluster until SIGTERM."""
    archives = [build(image).archive for image in _IMAGES]
    told_to_end = threading.Event()
    # Not blocked: whatever is started, down to the processes of pods, would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    with Cluster(nodes, archives) as cluster:
        kept = {"owner": os.getpid(), "kubeconfig": str(cluster.admin_kubeconfig)}
        part = _KEPT.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.rename(_KEPT)
        told_to_end.wait()
    _KEPT.unlink()


def down() -> None:
    """End it, and clear away what is left of clusters whose owners are gone."""
    owner = _owner()
    if owner is not None:
        os.kill(owner, signal.SIGTERM)
        wait_until(lambda: _owner() is None, "the cluster is down", _END_SECONDS, 0.1)
        print("the cluster is down")
    _KEPT.unlink(missing_ok=True)
    for entry in clear_leftovers():
        print(f"cleared away what was left of {entry.addresses.name}")


def _owner() -> int | None:
    """The process that holds a cluster of this checkout."""
    with suppress(FileNotFoundError):
        holder = json.loads(_KEPT.read_text())["owner"]
        own = [each for each in clusters() if Path(each.folder).is_relative_to(FOLDER)]
        return next((each.owner for each in own if each.owner == holder and each.is_owned), None)
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "hold"))
    parser.add_argument("--nodes", type=int, choices=range(1, 4), default=2)
    words = parser.parse_args()
    match words.command:
        case "up":
            up(words.nodes)
        case "hold":
            hold(words.nodes)
        case _:
            down()
