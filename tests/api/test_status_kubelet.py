"""What a kubelet says of a pod is told in the fleet's status."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest
from tests.apiserver_client import KubeClient, Object
from tests.apiserver_pods import fail_pod, make_pod_ready, make_pod_unready, make_pod_wait
from tests.live_fleet import LiveFleet
from tests.shown_status import check_told, scheduled_pod, told

pytestmark = pytest.mark.usefixtures("operator")

Afflict = Callable[[KubeClient, Object], Object]


@dataclass(frozen=True, slots=True)
class Affliction:
    """What happens to the pod, and what is told of it. ``is_stalled``: a person has to act."""

    happens: Afflict
    reason: str
    message: str
    is_stalled: bool = False


def image_fault(reason: str, message: str) -> Afflict:
    return partial(make_pod_wait, reason=reason, message=message)


AFFLICTIONS: Final[dict[str, Affliction]] = {
    "the registry does not answer": Affliction(
        image_fault(
            "ErrImagePull",
            'failed to pull and unpack image "ghcr.io/a/b:1": failed to do request: dial tcp: i/o'
            " timeout",
        ),
        "ImagePull",
        "0 of 1 replicas ready; replica POD: image ghcr.io/a/b:1 cannot be pulled: failed to pull"
        ".*: i/o timeout; check spec.image, and whether nodes reach its registry",
    ),
    "there is no such image": Affliction(
        image_fault(
            "ImagePullBackOff",
            'Back-off pulling image "ghcr.io/a/b:1": ErrImagePull: rpc error: code = NotFound'
            ' desc = failed to pull and unpack image "ghcr.io/a/b:1": ghcr.io/a/b:1: not found',
        ),
        "ImagePull",
        "0 of 1 replicas ready; replica POD: image ghcr.io/a/b:1 cannot be pulled: failed to pull"
        ".* not found; check spec.image",
        is_stalled=True,
    ),
    "a Secret is missing": Affliction(
        partial(
            make_pod_wait, reason="CreateContainerConfigError", message='secret "hub" not found'
        ),
        "MissingConfig",
        r"0 of 1 replicas ready; replica POD: Secret hub does not exist in namespace test-\d+;"
        " create it",
        is_stalled=True,
    ),
    "a ConfigMap is missing": Affliction(
        partial(
            make_pod_wait, reason="CreateContainerConfigError", message='configmap "more" not found'
        ),
        "MissingConfig",
        r"0 of 1 replicas ready; replica POD: ConfigMap more does not exist in namespace test-\d+;"
        " create it",
        is_stalled=True,
    ),
    "the image may not be pulled": Affliction(
        image_fault(
            "ErrImageNeverPull",
            'Container image "ghcr.io/a/b:1" is not present with pull policy of Never',
        ),
        "ImageNeverPull",
        "0 of 1 replicas ready; replica POD: image ghcr.io/a/b:1 is not on the node and"
        " imagePullPolicy is Never; load it there or change the policy",
        is_stalled=True,
    ),
    "the engine ends at once, for the first time": Affliction(
        partial(
            fail_pod,
            message="loading weights\nsampler serve: model sim://policy: no such model\n",
            restarts=1,
        ),
        "EngineStartFailed",
        "0 of 1 replicas ready; replica POD: sampler serve: model sim://policy: no such model",
    ),
    "the engine ends at once, again and again": Affliction(
        partial(fail_pod, message="sampler serve: --decode-rate: must not be negative", restarts=5),
        "EngineStartFailed",
        "0 of 1 replicas ready; replica POD: sampler serve: --decode-rate: must not be negative",
        is_stalled=True,
    ),
    "it says nothing and ends": Affliction(
        partial(fail_pod, exit_code=139, restarts=1),
        "EngineStartFailed",
        "0 of 1 replicas ready; replica POD: ended with exit code 139 and without a message",
    ),
    "it does not start in time": Affliction(
        partial(
            fail_pod, exit_code=137, message="INFO shard 3 of 40\n", restarts=1, ran_seconds=3640
        ),
        "EngineStartFailed",
        r"0 of 1 replicas ready; replica POD: did not start within startupTimeoutSeconds \(3600 s\)"
        "; raise it, or see in kubectl logs --previous what takes so long; its last line: INFO"
        " shard 3 of 40",
    ),
    "it needs too much memory": Affliction(
        partial(fail_pod, exit_code=137, reason="OOMKilled", restarts=1),
        "OutOfMemory",
        "0 of 1 replicas ready; replica POD: the server needed more than its 2Gi of memory and was"
        " killed; raise resources.limits.memory",
    ),
    "other weights are found": Affliction(
        partial(
            fail_pod,
            message=f"sampler serve: base sha256:{'a' * 64} differs from sha256:{'b' * 64}",
            restarts=1,
        ),
        "ModelMismatch",
        "0 of 1 replicas ready; replica POD: base sha256:a+ differs from sha256:b+; correct"
        " model.digest or model.uri",
        is_stalled=True,
    ),
    "another image cannot be pulled": Affliction(
        image_fault("InvalidImageName", 'couldn\'t parse image name "A B": invalid reference'),
        "ImagePull",
        "0 of 1 replicas ready; replica POD: image .* cannot be pulled: couldn't parse image name"
        ' "A B": invalid reference; correct spec.image',
        is_stalled=True,
    ),
    "its readiness probe fails": Affliction(
        make_pod_unready,
        "NotReady",
        "0 of 1 replicas ready; replica POD: its readiness probe has not passed",
    ),
}


def test_what_a_kubelet_says_is_told(fleet: LiveFleet) -> None:
    fleet.create({"resources": {"limits": {"memory": "2Gi"}}})
    for affliction in AFFLICTIONS.values():
        affliction.happens(fleet.client, scheduled_pod(fleet))
        check_told(fleet, affliction.reason, affliction.message)
        stalled, reconciling = (fleet.condition(kind) for kind in ("Stalled", "Reconciling"))
        assert stalled["status"] == str(affliction.is_stalled), stalled
        assert reconciling["status"] == str(not affliction.is_stalled), reconciling
    # Who begins to serve has no fault any more, whatever was before.
    make_pod_ready(fleet.client, scheduled_pod(fleet))
    fleet.settle()
    assert told(fleet) == ("Serving", "1 of 1 replicas ready")
    assert fleet.condition("Stalled")["status"] == "False"


def test_one_sentence_stands_for_many_replicas(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 4})
    fleet.settle()
    for number, pod in enumerate(fleet.pods()):
        fail_pod(fleet.client, pod, message="sampler serve: no GPU", restarts=1)
        if number == 0:
            # One of four may be missing.
            fleet.wait_for("UpToDate", "False", "EngineStartFailed")
            assert fleet.condition("Ready")["status"] == "True"
    check_told(
        fleet,
        "EngineStartFailed",
        r"0 of 4 replicas ready; replica POD: sampler serve: no GPU \(3 more alike\)",
    )
    # Events are written beside the passes.
    fleet.wait(lambda: warnings_of(fleet), "the event is written")
    warnings = warnings_of(fleet)
    assert [reason for reason, _ in warnings] == ["EngineStartFailed"], warnings


def warnings_of(fleet: LiveFleet) -> list[tuple[str, str]]:
    """Reason and message of each event of type Warning about the fleet, as kubectl lists them."""
    columns = "--output=custom-columns=:.type,:.reason,:.message"
    words = ("get", "events", "--field-selector=involvedObject.kind=SamplerDeployment", columns)
    rows = [line.split(maxsplit=2) for line in fleet.kubectl(*words).splitlines() if line.strip()]
    return [(reason, message.strip()) for kind, reason, message in rows if kind == "Warning"]
