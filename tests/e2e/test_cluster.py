"""The cluster that the other tests rely on: its nodes die and come back, it leaves nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.apiserver_client import Object
from tests.cluster.addresses import Addresses
from tests.cluster.cgroups import cgroup_names
from tests.cluster.cluster import Cluster
from tests.cluster.images import image_name
from tests.cluster.network import NAMESPACES
from tests.cluster.registry import Entry, clear_leftovers, clusters
from tests.proxy import wait_until

_ROOT: Final = Path(__file__).parent.parent.parent
_OWNER: Final = """
import signal
from tests.cluster.cluster import Cluster
with Cluster(1):
    print(flush=True)
    signal.pause()
"""


def is_node_ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.client.get(f"/api/v1/nodes/{name}")["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_a_node_that_lost_its_power_is_missed_and_comes_back(own_cluster: Cluster) -> None:
    name = own_cluster.node_names[1]
    own_cluster.node_kill(1)
    wait_until(lambda: not is_node_ready(own_cluster, name), f"{name} is missed", 40, 0.2)
    own_cluster.node_start(1)
    assert is_node_ready(own_cluster, name)


def test_a_node_that_is_cut_off_is_missed_and_comes_back(own_cluster: Cluster) -> None:
    name = own_cluster.node_names[1]
    own_cluster.node_cut(1)
    try:
        wait_until(lambda: not is_node_ready(own_cluster, name), f"{name} is missed", 40, 0.2)
    finally:
        own_cluster.node_join(1)
    own_cluster.wait_ready(1)


def test_a_container_whose_process_is_killed_starts_again(
    own_cluster: Cluster, restricted: str
) -> None:
    name = "mortal"
    pod = sleeping_pod(name)
    own_cluster.kubectl("create", "--namespace", restricted, "-f", "-", input=json.dumps(pod))
    path = f"/api/v1/namespaces/{restricted}/pods/{name}"

    def container() -> Object:
        statuses = own_cluster.client.get(path)["status"].get("containerStatuses", [{}])
        status: Object = statuses[0]
        return status

    wait_until(lambda: container().get("started"), f"{name} has started")
    own_cluster.signal_container(own_cluster.client.get(path), "main", signal.SIGKILL)
    wait_until(lambda: container()["restartCount"] == 1, f"{name} has started again")
    assert container()["lastState"]["terminated"]["exitCode"] == 137


def test_state_outlives_an_api_server_and_an_etcd_that_are_killed(own_cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    own_cluster.client.post(path, {"metadata": {"name": "kept"}})
    own_cluster.stop_api()
    own_cluster.restart_etcd()
    own_cluster.start_api()
    assert own_cluster.client.exists(f"{path}/kept")
    own_cluster.client.delete(f"{path}/kept")


def test_a_run_that_was_killed_leaves_no_process_and_the_next_one_clears_away_the_rest(
    own_cluster: Cluster,
) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", _OWNER),
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": "."},
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline(), "the other cluster has not started"
        [entry] = [entry for entry in clusters() if entry.owner == owner.pid]
        assert places(entry.addresses)
        owner.kill()
    wait_until(lambda: not processes(entry), "its processes are gone", 20)
    assert entry.number in {left.number for left in clear_leftovers()}
    assert places(entry.addresses) == []
    assert not Path(entry.folder).exists()
    # And of no other: its nodes still have their own files.
    own_cluster.client.get("/readyz")
    mounted = own_cluster.node_machine(0).run("findmnt", "--noheadings", "/var/lib/kubelet")
    assert str(own_cluster.folder) in mounted.stdout


def sleeping_pod(name: str) -> Object:
    """Allowed by the standard ``restricted``."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image_name("sampler-sim"),
        "command": ["sleep", "infinity"],
        "securityContext": security,
    }
    of_pod = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "securityContext": of_pod,
            "terminationGracePeriodSeconds": 0,
        },
    }


def places(at: Addresses) -> list[str]:
    """Where a cluster is on this machine."""
    links = [path.name for path in Path("/sys/class/net").glob(f"{at.name}-*")]
    return [
        *(path.name for path in NAMESPACES.glob(f"{at.name}-*")),
        *links,
        *cgroup_names(f"{at.name}-"),
    ]


def processes(entry: Entry) -> list[str]:
    """Those that were started with a file of the cluster's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if entry.folder in command:
            found.append(command)
    return found
