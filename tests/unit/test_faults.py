"""What kubelet and scheduler of Kubernetes 1.36 say of a pod, and what a person is told."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.kube_objects import (
    NOW,
    ended,
    fleet,
    pod,
    pod_condition,
    running,
    situation,
    termination,
    waiting,
)

from sampler_api.fleet import AdaptersConfig, ReplicaStatus
from sampler_api.frames import ModelCard
from sampler_operator.observed import PodView
from sampler_operator.ports import DeviceRoom, Event
from sampler_operator.reports import Report
from sampler_operator.status import Fault, Gravity, Reason, pod_fault

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
NAME = "fleet-a-1"


def fault_of(
    found: PodView,
    spec: Mapping[str, Any] | None = None,
    others: Sequence[PodView] = (),
    **more: Any,
) -> Fault | None:
    sd, seen = situation(fleet(spec), (found, *others), **more)
    return pod_fault(found, sd, seen, NOW)


def unschedulable(message: str, **more: Any) -> PodView:
    return pod(unschedulable=message, **more)


CRASH = waiting(
    "CrashLoopBackOff",
    "back-off 40s restarting failed container=server pod=fleet-a-1_rl(5f1c)",
    restarts=4,
    last=termination(
        1,
        "Error",
        "INFO loading\nTraceback (most recent call last):\n  File x\nValueError: no such dtype\n\n",
    ),
)
LOG = "INFO starting\nINFO loading shard 3 of 40\n"
HUB = waiting("PodInitializing")

CONTAINERS = [
    pytest.param(
        waiting(
            "ErrImagePull",
            "rpc error: code = NotFound desc = failed to pull and unpack image"
            ' "docker.io/acme/sampler:9": failed to resolve reference "docker.io/acme/sampler:9":'
            " docker.io/acme/sampler:9: not found",
        ),
        Reason.IMAGE_PULL,
        Gravity.STUCK,
        "image docker.io/acme/sampler:9 cannot be pulled: failed to pull and unpack image"
        ' "docker.io/acme/sampler:9": failed to resolve reference "docker.io/acme/sampler:9":'
        " docker.io/acme/sampler:9: not found; check spec.image",
        id="an image that does not exist needs another name",
    ),
    pytest.param(
        waiting(
            "ImagePullBackOff",
            'Back-off pulling image "ghcr.io/acme/sampler:9": ErrImagePull: failed to pull and'
            ' unpack image "ghcr.io/acme/sampler:9": failed to resolve reference'
            ' "ghcr.io/acme/sampler:9": failed to authorize: failed to fetch anonymous token:'
            " unexpected status from GET request to https://ghcr.io/token: 401 Unauthorized:"
            " authentication required",
        ),
        Reason.IMAGE_PULL,
        Gravity.STUCK,
        "check spec.image and imagePullSecrets",
        id="an image that needs a login names the secrets",
    ),
    pytest.param(
        waiting(
            "ImagePullBackOff",
            'Back-off pulling image "acme/sampler:9": ErrImagePull: failed to pull and unpack image'
            ' "docker.io/acme/sampler:9": failed to do request: Head'
            ' "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: i/o'
            " timeout",
        ),
        Reason.IMAGE_PULL,
        Gravity.HEALING,
        " timeout; check spec.image, and whether nodes reach its registry",
        id="a registry that does not answer may come back",
    ),
    pytest.param(
        waiting("ImagePullBackOff", 'Back-off pulling image "acme/sampler:9"'),
        Reason.IMAGE_PULL,
        Gravity.HEALING,
        "image acme/sampler:9 cannot be pulled",
        id="a back-off without its cause still names the image",
    ),
    pytest.param(
        waiting(
            "InvalidImageName",
            'Failed to apply default image tag "Acme/Sampler:9": couldn\'t parse image name'
            ' "Acme/Sampler:9": invalid reference format: repository name (Acme/Sampler) must be'
            " lowercase",
        ),
        Reason.IMAGE_PULL,
        Gravity.STUCK,
        "must be lowercase; correct spec.image",
        id="a name that is none has to be corrected",
    ),
    pytest.param(
        waiting(
            "RegistryUnavailable",
            "image pull failed for acme/sampler:9 because the registry is unavailable: 503",
        ),
        Reason.IMAGE_PULL,
        Gravity.HEALING,
        "image acme/sampler:9 cannot be pulled",
        id="a registry that is unavailable may come back",
    ),
    pytest.param(
        waiting(
            "ErrImageNeverPull",
            'Container image "sampler:dev" is not present with pull policy of Never',
        ),
        Reason.IMAGE_NEVER_PULL,
        Gravity.STUCK,
        "image sampler:dev is not on the node and imagePullPolicy is Never",
        id="an image that may not be pulled has to be loaded",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", 'secret "hub" not found'),
        Reason.MISSING_CONFIG,
        Gravity.STUCK,
        "Secret hub does not exist in namespace rl; create it",
        id="a missing Secret is named",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", 'configmap "settings" not found'),
        Reason.MISSING_CONFIG,
        Gravity.STUCK,
        "ConfigMap settings does not exist in namespace rl; create it",
        id="a missing ConfigMap is named",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", "couldn't find key token in Secret rl/hub"),
        Reason.MISSING_CONFIG,
        Gravity.STUCK,
        "Secret hub has no key token in namespace rl",
        id="a missing key of a Secret is named",
    ),
    pytest.param(
        waiting(
            "CreateContainerConfigError",
            'container has runAsNonRoot and image will run as root (pod: "fleet-a-1_rl(5f1c)",'
            " container: server)",
        ),
        Reason.CONTAINER_FAILED,
        Gravity.STUCK,
        "container server cannot start: container has runAsNonRoot and image will run as root",
        id="an image that runs as root is refused by the kubelet",
    ),
    pytest.param(
        waiting(
            "RunContainerError",
            "failed to create containerd task: failed to create shim task: OCI runtime create"
            ' failed: runc create failed: unable to start container process: exec: "sampler":'
            " executable file not found in $PATH",
        ),
        Reason.CONTAINER_FAILED,
        Gravity.STUCK,
        'exec: "sampler": executable file not found in $PATH',
        id="an image without the command cannot start",
    ),
    pytest.param(
        waiting("CreateContainerError", "context deadline exceeded"),
        Reason.CONTAINER_FAILED,
        Gravity.HEALING,
        "context deadline exceeded",
        id="a slow container runtime may catch up",
    ),
    pytest.param(
        CRASH,
        Reason.ENGINE_START_FAILED,
        Gravity.STUCK,
        "ValueError: no such dtype",
        id="a crash loop tells the last line of the engine",
    ),
    pytest.param(
        ended(1, message="CUDA out of memory: lower gpuMemoryUtilization"),
        Reason.ENGINE_START_FAILED,
        Gravity.HEALING,
        "CUDA out of memory: lower gpuMemoryUtilization",
        id="the first crash may have been the last",
    ),
    pytest.param(
        ended(139),
        Reason.ENGINE_START_FAILED,
        Gravity.HEALING,
        "ended with exit code 139 and without a message",
        id="a crash without words tells its exit code",
    ),
    pytest.param(
        running(restarts=5, last=termination(1, message="ModelInvalid: not a model\n")),
        Reason.ENGINE_START_FAILED,
        Gravity.STUCK,
        "ModelInvalid: not a model",
        id="a crash loop that tries again is still a crash loop",
    ),
    pytest.param(
        running(restarts=1, last=termination(137, "OOMKilled")),
        Reason.OUT_OF_MEMORY,
        Gravity.HEALING,
        "raise resources.limits.memory",
        id="a container out of memory names the limit to raise",
    ),
    pytest.param(
        waiting(
            "CrashLoopBackOff", "back-off 5m0s", restarts=3, last=termination(137, "OOMKilled")
        ),
        Reason.OUT_OF_MEMORY,
        Gravity.STUCK,
        "needed more than its 16Gi of memory",
        id="a container that is out of memory again and again needs more",
    ),
    pytest.param(
        waiting("CrashLoopBackOff", restarts=1, last=termination(137, message=LOG, ran=3640)),
        Reason.ENGINE_START_FAILED,
        Gravity.HEALING,
        "did not start within startupTimeoutSeconds (3600 s); raise it, or see in kubectl logs"
        " --previous what takes so long; its last line: INFO loading shard 3 of 40",
        id="a server that the kubelet killed because it did not start names the limit",
    ),
    pytest.param(
        running(restarts=3, last=termination(143, ran=3598)),
        Reason.ENGINE_START_FAILED,
        Gravity.STUCK,
        "did not start within startupTimeoutSeconds (3600 s)",
        id="one that is too slow again and again stays so while it tries",
    ),
    pytest.param(
        waiting("CrashLoopBackOff", restarts=1, last=termination(0, "Completed", ran=3605)),
        Reason.ENGINE_START_FAILED,
        Gravity.HEALING,
        "did not start within startupTimeoutSeconds (3600 s)",
        id="one that could still listen to SIGTERM was too slow as well",
    ),
    pytest.param(
        waiting("CrashLoopBackOff", restarts=1, last=termination(137, "OOMKilled", ran=3610)),
        Reason.OUT_OF_MEMORY,
        Gravity.HEALING,
        "raise resources.limits.memory",
        id="a container out of memory is not too slow, whenever it ends",
    ),
    pytest.param(
        ended(1, message="base sha256:aa differs from --model-digest sha256:bb"),
        Reason.MODEL_MISMATCH,
        Gravity.STUCK,
        "base sha256:aa differs from --model-digest sha256:bb; correct model.digest or model.uri",
        id="weights with another digest than the spec's are a mismatch",
    ),
    pytest.param(
        waiting("ContainerCreating"),
        Reason.PENDING,
        Gravity.WAITING,
        "its containers are being created on node node-1",
        id="a container that is being created is no fault",
    ),
    pytest.param(
        running(),
        Reason.STARTING,
        Gravity.WAITING,
        "its engine is starting",
        id="an engine that loads is no fault",
    ),
    pytest.param(
        running(started=True),
        Reason.NOT_READY,
        Gravity.HEALING,
        "its readiness probe has not passed",
        id="a started server that is not ready is told",
    ),
    pytest.param(
        running(started=True, restarts=2, last=termination(1, message="an old story")),
        Reason.NOT_READY,
        Gravity.HEALING,
        "its readiness probe has not passed",
        id="a server that has started again is judged by what it does now",
    ),
]


@pytest.mark.parametrize(("server", "reason", "gravity", "said"), CONTAINERS)
def test_a_container_that_does_not_serve_says(
    server: dict[str, Any], reason: Reason, gravity: Gravity, said: str
) -> None:
    fault = fault_of(pod(server=server), {"resources": {"limits": {"memory": "16Gi"}}})
    assert fault is not None
    assert (fault.reason, fault.gravity, fault.pod) == (reason, gravity, NAME)
    assert said in fault.message
    assert fault.sentence == f"replica {NAME}: {fault.message}"


@pytest.mark.parametrize(
    ("code", "ran"),
    [
        pytest.param(137, 86400, id="long after its start"),
        pytest.param(137, 60, id="long before the limit"),
        pytest.param(1, 3610, id="by itself"),
        pytest.param(137, None, id="nobody knows when"),
    ],
)
def test_a_server_was_not_too_slow_if_it_ended(code: int, ran: float | None) -> None:
    last = termination(code, message=LOG, ran=ran)
    fault = fault_of(pod(server=waiting("CrashLoopBackOff", restarts=1, last=last)))
    assert fault is not None
    assert fault.reason == Reason.ENGINE_START_FAILED
    assert fault.message == "INFO loading shard 3 of 40"


def test_a_node_out_of_memory_asks_for_a_limit() -> None:
    fault = fault_of(pod(server=ended(137, "OOMKilled")))
    assert fault is not None
    assert fault.message == (
        "the server was killed because its node ran out of memory; set resources.limits.memory"
    )


def test_pulling_and_backing_off_tell_the_same() -> None:
    cause = 'failed to pull and unpack image "acme/sampler:9": not found'
    pulling = fault_of(pod(server=waiting("ErrImagePull", cause)))
    text = f'Back-off pulling image "acme/sampler:9": ErrImagePull: {cause}'
    backing_off = fault_of(pod(server=waiting("ImagePullBackOff", text)))
    assert pulling == backing_off


FETCHES = [
    pytest.param(
        running(), Reason.STARTING, "its model is being fetched", id="a download is no fault"
    ),
    pytest.param(
        waiting(
            "CrashLoopBackOff",
            "back-off 20s",
            restarts=2,
            last=termination(1, message="hf://owner/model: no such repository\n"),
        ),
        Reason.FETCH_FAILED,
        "the model cannot be fetched: hf://owner/model: no such repository",
        id="a model that does not exist is told from the download",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", 'secret "hub" not found'),
        Reason.MISSING_CONFIG,
        "Secret hub does not exist in namespace rl; create it",
        id="the download's Secret is named",
    ),
    pytest.param(
        ended(0, "Completed"),
        Reason.PENDING,
        "its containers are being created on node node-1",
        id="a finished download explains nothing",
    ),
]


@pytest.mark.parametrize(("fetch", "reason", "said"), FETCHES)
def test_the_download_of_a_model_says(fetch: dict[str, Any], reason: Reason, said: str) -> None:
    fault = fault_of(pod(server=HUB, fetch=fetch))
    assert fault is not None
    assert (fault.reason, fault.message) == (reason, said)


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


MOUNTS = [
    pytest.param(
        [
            Event("Warning", "Unhealthy", "Readiness probe failed"),
            Event(
                "Warning",
                "FailedMount",
                'MountVolume.SetUp failed for volume "tokens" : secret "jobs" not found',
            ),
        ],
        60.0,
        (Reason.MOUNT_FAILED, Gravity.STUCK),
        "Secret jobs does not exist in namespace rl; create it (MountVolume.SetUp failed",
        id="a mounted Secret that is missing is named",
    ),
    pytest.param(
        [
            Event(
                "Warning",
                "FailedAttachVolume",
                'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) fleet-b-1',
            )
        ],
        60.0,
        (Reason.MOUNT_FAILED, Gravity.HEALING),
        "already used by pod(s) fleet-b-1; replicas on several nodes need a ReadWriteMany claim",
        id="a claim of one node names the access mode",
    ),
    pytest.param(
        [
            Event(
                "Warning",
                "FailedCreatePodSandBox",
                "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup"
                " network for sandbox",
            )
        ],
        60.0,
        (Reason.CONTAINER_FAILED, Gravity.HEALING),
        "failed to setup network",
        id="a sandbox that cannot be made is told",
    ),
    pytest.param(
        [Event("Warning", "FailedMount", 'MountVolume.SetUp failed for volume "x" : timed out')],
        5.0,
        (Reason.PENDING, Gravity.WAITING),
        "being created",
        id="a mount that fails in the first seconds is not told yet",
    ),
]


@pytest.mark.parametrize(("warnings", "age", "verdict", "said"), MOUNTS)
def test_a_pod_that_is_long_in_the_making_says(
    warnings: list[Event], age: float, verdict: tuple[Reason, Gravity], said: str
) -> None:
    found = pod(server=waiting("ContainerCreating"), age=age)
    fault = fault_of(found, warnings={NAME: warnings})
    assert fault is not None
    assert (fault.reason, fault.gravity) == verdict
    assert said in fault.message


FAILED = [
    pytest.param(
        {
            "reason": "Evicted",
            "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available:"
            " 52Mi. ",
        },
        (Reason.EVICTED, Gravity.HEALING),
        "was evicted: The node was low on resource: memory. Threshold quantity: 100Mi",
        id="an eviction tells what the node was short of",
    ),
    pytest.param(
        {
            "reason": "Evicted",
            "message": 'Usage of EmptyDir volume "cache" exceeds the limit "20Gi". ',
        },
        (Reason.EVICTED, Gravity.HEALING),
        'was evicted: Usage of EmptyDir volume "cache" exceeds the limit "20Gi".',
        id="an eviction for a full volume names the volume",
    ),
    pytest.param(
        {
            "reason": "Terminated",
            "message": "Pod was terminated in response to imminent node shutdown.",
        },
        (Reason.NODE_LOST, Gravity.HEALING),
        "imminent node shutdown",
        id="a node that shuts down takes its pods along",
    ),
    pytest.param(
        {
            "reason": "UnexpectedAdmissionError",
            "message": "Pod was rejected: Allocate failed due to requested number of devices"
            " unavailable for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected",
        },
        (Reason.POD_REJECTED, Gravity.HEALING),
        "node node-1 rejected it (UnexpectedAdmissionError): Allocate failed due to requested"
        " number of devices unavailable",
        id="a kubelet that has no device left rejects the pod",
    ),
]


@pytest.mark.parametrize(("more", "verdict", "said"), FAILED)
def test_a_failed_pod_says(
    more: dict[str, Any], verdict: tuple[Reason, Gravity], said: str
) -> None:
    fault = fault_of(pod(phase="Failed", **more))
    assert fault is not None
    assert (fault.reason, fault.gravity) == verdict
    assert said in fault.message


LOST = [
    pytest.param(pod_condition("Ready", "False"), Reason.NODE_LOST, id="a silent node is found"),
    pytest.param(
        pod_condition(
            "Ready",
            "False",
            "ReadinessGatesNotReady",
            'the status of pod readiness gate "acme/lb" is not "True", but False',
        ),
        Reason.NOT_READY,
        id="a readiness gate is no lost node",
    ),
]


@pytest.mark.parametrize(("condition", "reason"), LOST)
def test_ready_containers_in_a_pod_that_is_not(condition: dict[str, Any], reason: Reason) -> None:
    conditions = [condition, pod_condition("ContainersReady", "True")]
    fault = fault_of(pod(server=running(started=True, ready=True), conditions=conditions))
    assert fault is not None
    assert fault.reason == reason
    assert ("node-1" in fault.message) or ("acme/lb" in fault.message)


SILENT = [
    pytest.param(pod(is_ready=True), id="it is ready"),
    pytest.param(pod(server=CRASH, is_leaving=True), id="it leaves"),
    pytest.param(pod(phase="Succeeded"), id="it has ended in good order"),
    pytest.param(pod(phase="Failed", reason="Evicted", age=7200), id="it was evicted long ago"),
]


@pytest.mark.parametrize("found", SILENT)
def test_a_pod_has_no_fault_when(found: PodView) -> None:
    assert fault_of(found) is None


def card(base: str) -> ModelCard:
    return ModelCard("owner/model", "torch", base, None, 128, 64, (2,), ("processed",), 20)


def account(found: PodView, **more: Any) -> dict[str, Report]:
    status = ReplicaStatus(ready=False, incarnation="i", **more)
    return {found.name: Report(found.life, is_ready=False, status=status)}


OWN = [
    pytest.param(
        True,
        {"reason": "required adapters are not held: math@sha256:aa no such directory"},
        (Reason.NOT_READY, Gravity.HEALING),
        "required adapters are not held: math@sha256:aa no such directory",
        id="a replica tells itself why it is not ready",
    ),
    pytest.param(
        False,
        {"reason": "the engine is loading"},
        (Reason.STARTING, Gravity.WAITING),
        "the engine is loading",
        id="a replica that starts tells what it does",
    ),
    pytest.param(
        True,
        {"card": "sha256:bb", "reason": "base sha256:bb differs from sha256:aa of this template"},
        (Reason.MODEL_MISMATCH, Gravity.STUCK),
        "base sha256:bb differs from sha256:aa of this template; set model.digest, or fix"
        " model.revision to one commit",
        id="another base than the template's is a mismatch",
    ),
    pytest.param(
        True,
        {"card": "sha256:aa", "reason": "draining"},
        (Reason.NOT_READY, Gravity.HEALING),
        "draining",
        id="the template's own base is none",
    ),
]


@pytest.mark.parametrize(("started", "says", "verdict", "said"), OWN)
def test_a_replica_speaks_for_itself(
    started: bool, says: dict[str, Any], verdict: tuple[Reason, Gravity], said: str
) -> None:
    found = pod(server=running(started=started))
    base = says.get("card")
    reports = account(found, **{**says, "card": card(base) if base else None})
    config = AdaptersConfig(bases={"a": "sha256:aa"})
    fault = fault_of(found, config=config, reports=reports)
    assert fault is not None
    assert (fault.reason, fault.gravity, fault.message) == (*verdict, said)


def test_what_a_replica_said_in_a_former_life_is_void() -> None:
    found = pod(server=running(started=True))
    report = Report("former", is_ready=False, status=ReplicaStatus(False, "i", reason="old"))
    fault = fault_of(found, reports={NAME: report})
    assert fault is not None
    assert fault.message == "its readiness probe has not passed"


def test_a_replica_that_does_not_answer_is_told() -> None:
    found = pod(server=running(started=True))
    report = Report(found.life, is_ready=False, error="connection refused")
    fault = fault_of(found, reports={NAME: report})
    assert fault is not None
    assert fault.message == "does not answer: connection refused"


def test_a_long_message_is_cut_to_one_line() -> None:
    fault = fault_of(pod(server=ended(1, message="x" * 5000)))
    assert fault is not None
    assert len(fault.message) == 800
    assert fault.message.endswith("…")
