"""One replica dies, hangs or is told to leave."""

import os
import signal
from pathlib import Path
from typing import Final

from tests.apiserver_client import Object, RefusedError
from tests.cluster.cgroups import pids_of_container
from tests.faults.pods import ending_of, restarts_of
from tests.faults.stage import Stage

__all__ = ["deleted", "engine_killed", "evicted", "killed", "out_of_memory", "wedged"]

_SERVER: Final = "server"
# It has no name any more, so that its memory is free when the writer is gone.
_FILL_MEMORY: Final = """
import os
with open('/dev/shm/filler', 'wb', buffering=0) as file:
    os.unlink('/dev/shm/filler')
    while True:
        file.write(bytes(1 << 20))
"""


def killed(stage: Stage) -> str:
    """SIGKILL to the first process of a pod's container."""
    pod = stage.busiest()
    stage.strike(pod)
    stage.cluster.signal_container(pod, _SERVER, signal.SIGKILL)
    return _restarted(stage, pod)


def wedged(stage: Stage) -> str:
    """SIGSTOP to it: the pod lives and says nothing."""
    pod = stage.busiest()
    stage.strike(pod)
    stage.cluster.signal_container(pod, _SERVER, signal.SIGSTOP)
    return _restarted(stage, pod)


def engine_killed(stage: Stage) -> str:
    """SIGKILL to one of two engine processes; the pod and the other one live."""
    pod = stage.busiest()
    name = pod["metadata"]["name"]
    before = _engines(pod)
    stage.strike(pod)
    os.kill(before[0], signal.SIGKILL)
    # The supervisor has started another one, which serves: the pod is as ready as it was.
    stage.wait(
        lambda: len(_engines(pod)) == len(before) and before[0] not in _engines(pod),
        "a new engine has been started",
    )
    log = "ended with code -9; starting it again"
    stage.wait(lambda: log in stage.kubectl("logs", name), "the supervisor tells of it")
    stage.wait_recovered()
    assert restarts_of(stage.pods.pod(name)) == 0, "the whole pod has restarted"
    return f"log: engine {log}; restartCount of the pod 0"


def out_of_memory(stage: Stage) -> str:
    """The container passes its memory limit."""
    pod = stage.busiest()
    name = pod["metadata"]["name"]
    stage.strike(pod)
    # It is killed with the container.
    stage.kubectl("exec", name, "--", "python", "-c", _FILL_MEMORY, check=False)
    told = _restarted(stage, pod)
    assert "OOMKilled" in told, told
    return told


def deleted(stage: Stage) -> str:
    """`kubectl delete pod`, with the grace that it asks for."""
    pod = stage.busiest()
    stage.strike(pod)
    stage.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    return left(stage, [pod])


def evicted(stage: Stage) -> str:
    """The Eviction API, twice: the budget lets one replica go."""
    pod = stage.busiest()
    stage.strike(pod)
    assert evict(stage, pod) == 201
    name = pod["metadata"]["name"]
    other = next(each for each in stage.pods.ready if each["metadata"]["name"] != name)
    answer = evict(stage, other)
    assert answer == 429, f"the budget let two replicas go: {answer}"
    return f"eviction: 201, of a second one 429; {left(stage, [pod])}"


def evict(stage: Stage, pod: Object) -> int:
    """The code that the Eviction API answers."""
    name = pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{stage.namespace}/pods/{name}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    try:
        stage.cluster.client.post(path, eviction)
    except RefusedError as refused:
        return refused.code
    return 201


def left(stage: Stage, pods: list[Object]) -> str:
    """When they are gone and others serve: how they ended."""
    names = [pod["metadata"]["name"] for pod in pods]

    def are_gone() -> bool:
        return not {pod["metadata"]["name"] for pod in stage.pods.pods} & set(names)

    stage.wait_recovered(are_gone)
    endings = sorted({ending_of(stage.pods.pod(name)) for name in names} - {""})
    number = "1 pod" if len(names) == 1 else f"{len(names)} pods"
    return f"deletionTimestamp of {number}, gone after: {' and '.join(endings) or 'no status'}"


def _restarted(stage: Stage, pod: Object) -> str:
    name, before = pod["metadata"]["name"], restarts_of(pod)
    stage.wait_recovered(lambda: stage.has_restarted(pod))
    now = stage.pods.pod(name)
    return f"{ending_of(now)}; restartCount {before} → {restarts_of(now)}"


def _engines(pod: Object) -> list[int]:
    """Engine processes of a pod that has several, as this machine numbers them."""
    [status] = pod["status"]["containerStatuses"]
    identity = status["containerID"].removeprefix("containerd://")
    pids = pids_of_container(pod["spec"]["nodeName"], identity)
    return [pid for pid in pids if b"--sibling" in Path(f"/proc/{pid}/cmdline").read_bytes()]
