"""What a kubelet of Kubernetes 1.36 says of containers, and what a person is told."""

from typing import Any

import pytest
from tests.kube_objects import (
    ended,
    pod,
    running,
    termination,
    waiting,
)
from tests.pod_faults import CRASH, NAME, fault_of

from sampler_operator.status import Gravity, Reason

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
