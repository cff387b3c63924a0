"""What a scheduler of Kubernetes 1.36 says of a pod, and what a person is told."""

from typing import Any

import pytest
from tests.kube_objects import (
    pod,
    pod_condition,
)
from tests.pod_faults import fault_of

from sampler_operator.observed import PodView
from sampler_operator.ports import DeviceRoom
from sampler_operator.status import Gravity, Reason

GPUS = {"engine": {"torch": None, "vllm": {}}, "tensorParallelSize": 2}
TAIL = (
    " no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims"
    " found for incoming pod, 2 Preemption is not helpful for scheduling."
)
NO_GPU = (
    "0/3 nodes are available: 2 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s)."
    + TAIL
)
ROOM = DeviceRoom(largest_node=4, largest_free=1)


def unschedulable(message: str, **more: Any) -> PodView:
    return pod(unschedulable=message, **more)


OLD = pod("fleet-b-1", template="b", is_ready=True)
SURGE = {**GPUS, "rollout": {"maxSurge": 1, "maxUnavailable": 0}}

PLACES = [
    pytest.param(
        "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector." + TAIL,
        {},
        (),
        None,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector; see"
        " spec.nodeSelector and spec.affinity",
        id="a selector that fits no node names the fields",
    ),
    pytest.param(
        "0/1 nodes are available: 1 node(s) had untolerated taint(s). no new claims to deallocate,"
        " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        {},
        (),
        None,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "0/1 nodes are available: 1 node(s) had untolerated taint(s); see spec.tolerations",
        id="a taint names the tolerations",
    ),
    pytest.param(
        NO_GPU,
        GPUS,
        (),
        None,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "needs 2 nvidia.com/gpu on one node: 0/3 nodes are available: 2 Insufficient"
        " nvidia.com/gpu, 1 node(s) had untolerated taint(s)",
        id="without the right to read nodes the scheduler's words are told",
    ),
    pytest.param(
        NO_GPU,
        GPUS,
        (),
        ROOM,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "needs 2 nvidia.com/gpu on one node, largest free is 1; free some, add nodes or lower"
        " replicas",
        id="devices that others hold are counted",
    ),
    pytest.param(
        NO_GPU,
        {**GPUS, "tensorParallelSize": 8},
        (),
        ROOM,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "needs 8 nvidia.com/gpu on one node, but no node has more than 4; lower tensorParallelSize"
        " or add larger nodes",
        id="a pod larger than every node says so",
    ),
    pytest.param(
        NO_GPU,
        GPUS,
        (),
        DeviceRoom(0, 0),
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "needs 2 nvidia.com/gpu on one node, but no node has any; add such nodes, or install their"
        " device plugin",
        id="a cluster without devices says so",
    ),
    pytest.param(
        NO_GPU,
        GPUS,
        (),
        DeviceRoom(4, 2),
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "needs 2 nvidia.com/gpu on one node: 0/3 nodes are available",
        id="free devices behind a taint leave the word to the scheduler",
    ),
    pytest.param(
        NO_GPU,
        SURGE,
        (OLD,),
        ROOM,
        (Reason.UNSCHEDULABLE, Gravity.STUCK),
        "needs 2 nvidia.com/gpu on one node, largest free is 1, because this fleet's own old pods"
        " hold them; raise rollout.maxUnavailable or use rollout.strategy Recreate",
        id="old pods that may not be missing block their successors",
    ),
    pytest.param(
        NO_GPU,
        {**GPUS, "rollout": {"maxSurge": 1, "maxUnavailable": 1}},
        (OLD,),
        ROOM,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "this fleet's own old pods hold them",
        id="old pods that may be missing make room by and by",
    ),
    pytest.param(
        NO_GPU,
        SURGE,
        (pod("fleet-a-2", is_ready=True),),
        ROOM,
        (Reason.UNSCHEDULABLE, Gravity.HEALING),
        "largest free is 1; free some, add nodes or lower replicas",
        id="a fleet that has outgrown its nodes is no rollout",
    ),
    pytest.param(
        NO_GPU,
        GPUS,
        (pod("fleet-b-1", template="b", is_ready=True, is_leaving=True),),
        ROOM,
        (Reason.PENDING, Gravity.WAITING),
        "waits for 1 of this fleet's pods that are leaving",
        id="a pod that waits for its predecessor's devices is no fault",
    ),
    pytest.param(
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + TAIL,
        {},
        (),
        None,
        (Reason.VOLUME_UNBOUND, Gravity.HEALING),
        "a PersistentVolumeClaim has no volume yet; give it a storageClassName if the cluster has"
        " no default StorageClass, see kubectl describe pvc in namespace rl",
        id="a claim without a volume is no matter of nodes",
    ),
    pytest.param(
        '0/2 nodes are available: persistentvolumeclaim "runs" not found.' + TAIL,
        {},
        (),
        None,
        (Reason.VOLUME_UNBOUND, Gravity.STUCK),
        "PersistentVolumeClaim runs does not exist; create it in namespace rl",
        id="a missing claim is named",
    ),
    pytest.param(
        '0/2 nodes are available: persistentvolumeclaim "runs" is being deleted.' + TAIL,
        {},
        (),
        None,
        (Reason.VOLUME_UNBOUND, Gravity.STUCK),
        "PersistentVolumeClaim runs is being deleted",
        id="a claim on its way out is named",
    ),
    pytest.param(
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
        + TAIL,
        {},
        (),
        None,
        (Reason.VOLUME_UNBOUND, Gravity.HEALING),
        "didn't find available persistent volumes to bind",
        id="a claim that fits no volume is told",
    ),
]


@pytest.mark.parametrize(("message", "spec", "others", "room", "verdict", "said"), PLACES)
def test_a_pod_without_a_node_says(
    message: str,
    spec: dict[str, Any],
    others: tuple[PodView, ...],
    room: DeviceRoom | None,
    verdict: tuple[Reason, Gravity],
    said: str,
) -> None:
    fault = fault_of(unschedulable(message), spec, others, room=room)
    assert fault is not None
    assert (fault.reason, fault.gravity) == verdict
    assert said in fault.message
    assert "reemption" not in fault.message


def test_a_gated_pod_waits() -> None:
    gate = pod_condition(
        "PodScheduled",
        "False",
        "SchedulingGated",
        "Scheduling is blocked due to non-empty scheduling gates",
    )
    fault = fault_of(pod(node="", conditions=[gate]))
    assert fault is not None
    assert (fault.reason, fault.gravity) == (Reason.PENDING, Gravity.WAITING)
