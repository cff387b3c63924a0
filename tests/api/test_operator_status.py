"""A fleet that does not serve says why, in ``kubectl get sd -o wide``: with real schedulers, quotas
and admission, and with pods whose kubelet says what kubelets say.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import KubeClient, Object, RefusedError
from tests.apiserver_namespaces import end_namespace, make_namespace
from tests.apiserver_pods import (
    fail_pod,
    make_pod_ready,
    make_pod_unready,
    make_pod_wait,
    pod_path,
    remove_pod,
)
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until

QUIET_SECONDS: Final = 3.0


@pytest.fixture(scope="module", autouse=True)
def operator(api_server: ApiServer, nodes: tuple[str, ...]) -> Iterator[OperatorProcess]:
    assert nodes
    with OperatorProcess(api_server) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def creating(api_server: ApiServer, operator: OperatorProcess) -> Iterator[LiveFleet]:
    """A fleet whose container is being created since this module began, which is long."""
    assert operator.is_running
    client = api_server.client
    namespace = make_namespace(client, "creating")
    fleet = LiveFleet(api_server, namespace)
    fleet.create({"auth": {"tokenSecretRef": {"name": "tokens"}}})
    pod = scheduled_pod(fleet)
    make_pod_wait(client, pod, "ContainerCreating")
    yield fleet
    end_namespace(client, namespace)


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> LiveFleet:
    """Nothing is there yet."""
    return LiveFleet(api_server, namespace)


def scheduled_pod(fleet: LiveFleet) -> Object:
    """The only pod, when it has a node."""
    fleet.wait(lambda: [p for p in fleet.pods() if "nodeName" in p["spec"]], "its pod has a node")
    (pod,) = fleet.pods()
    return pod


def told(fleet: LiveFleet) -> tuple[str, str]:
    """Reason and message of the one row."""
    heading, row = fleet.kubectl("get", f"sd/{fleet.name}", "-o", "wide").splitlines()
    reason, message, image = (heading.index(name) for name in ("REASON", "MESSAGE", "IMAGE"))
    return row[reason:message].strip(), row[message:image].strip()


def check_told(fleet: LiveFleet, reason: str, message: str) -> None:
    """``Ready`` is False because of ``reason``, and people see it. ``message`` is a pattern; POD in
    it stands for the name of one of its pods."""
    pattern = re.compile(message.replace("POD", r"fleet-[a-z0-9]+-[a-z0-9]+"))

    def is_so() -> bool:
        found = fleet.condition("Ready")
        return (
            found.get("status") == "False"
            and found["reason"] == reason
            and pattern.fullmatch(found["message"]) is not None
        )

    fleet.wait(is_so, f"{reason}: {pattern.pattern}")
    shown = told(fleet)
    assert shown[0] == reason
    assert pattern.fullmatch(shown[1]), shown[1]


# -- what the kubelet says -------------------------------------------------------------------------

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


# -- what the scheduler says -----------------------------------------------------------------------

UNPLACED: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "no node has the label": (
        {"nodeSelector": {"example.com/pool": "none"}},
        "Unschedulable",
        r"0 of 1 replicas ready; replica POD: 0/\d+ nodes are available: \d+ node\(s\) didn't match"
        r" Pod's node affinity/selector; see spec.nodeSelector and spec.affinity",
    ),
    "no node has so much memory": (
        {"resources": {"requests": {"memory": "100Ti"}}},
        "Unschedulable",
        r"0 of 1 replicas ready; replica POD: 0/\d+ nodes are available: \d+ Insufficient memory;"
        " see spec.resources.requests",
    ),
    "no node has so many devices": (
        {"tensorParallelSize": 16, "gpu": {"count": 16}},
        "Unschedulable",
        "0 of 1 replicas ready; replica POD: needs 16 nvidia.com/gpu on one node, but no node has"
        " more than 8; lower tensorParallelSize or add larger nodes",
    ),
    "no node has such a device": (
        {"gpu": {"count": 1, "resourceName": "example.com/tpu"}},
        "Unschedulable",
        "0 of 1 replicas ready; replica POD: needs 1 example.com/tpu on one node, but no node has"
        " any; add such nodes, or install their device plugin",
    ),
    "a claim is missing": (
        {
            "lora": {
                "volumes": [
                    {
                        "name": "runs",
                        "mountPath": "/runs",
                        "persistentVolumeClaim": {"claimName": "runs"},
                    }
                ]
            }
        },
        "VolumeUnbound",
        "0 of 1 replicas ready; replica POD: PersistentVolumeClaim runs does not exist; create it"
        r" in namespace test-\d+",
    ),
}


@pytest.mark.parametrize(("spec", "reason", "message"), UNPLACED.values(), ids=UNPLACED.keys())
def test_what_the_scheduler_says_is_told(
    fleet: LiveFleet, spec: dict[str, Any], reason: str, message: str
) -> None:
    fleet.create(spec)
    check_told(fleet, reason, message)


def test_a_claim_that_nobody_gives_a_volume_is_told(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/persistentvolumeclaims"
    asked = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    fleet.client.post(path, {"metadata": {"name": "runs"}, "spec": asked})
    source = {"persistentVolumeClaim": {"claimName": "runs"}}
    fleet.create({"lora": {"volumes": [{"name": "runs", "mountPath": "/runs", **source}]}})
    check_told(
        fleet,
        "VolumeUnbound",
        "0 of 1 replicas ready; replica POD: a PersistentVolumeClaim has no volume yet; give it a"
        " storageClassName if the cluster has no default StorageClass, see kubectl describe pvc in"
        rf" namespace {fleet.namespace} \(.*pod has unbound immediate PersistentVolumeClaims.*\)",
    )


@pytest.fixture
def device(api_server: ApiServer, nodes: tuple[str, ...], namespace: str) -> str:
    """A kind of devices of the test's own, 8 on each node: the operator remembers for a while how
    many of a kind are free."""
    name = f"example.com/{namespace}"
    for node in nodes:
        amounts = {"capacity": {name: "8"}, "allocatable": {name: "8"}}
        api_server.client.patch(f"/api/v1/nodes/{node}/status", {"status": amounts})
    return name


def devices(name: str, count: int, **more: Any) -> dict[str, Any]:
    """A spec of pods with so many devices each."""
    return {"tensorParallelSize": count, "gpu": {"count": count, "resourceName": name}, **more}


def test_a_rollout_waits_for_devices_of_its_own_pods(fleet: LiveFleet, device: str) -> None:
    fleet.create(devices(device, 8, replicas=2, rollout={"maxUnavailable": 2}))
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    check_told(
        fleet,
        "Pending",
        f"0 of 2 replicas ready; replica POD: needs 8 {device} on one node, largest free is 0;"
        r" waits for 2 of this fleet's pods that are leaving \(1 more alike\)",
    )
    assert fleet.condition("Stalled")["status"] == "False"
    fleet.settle()


def test_a_rollout_that_its_own_pods_block_says_what_to_change(
    fleet: LiveFleet, device: str
) -> None:
    surge = {"maxSurge": 1, "maxUnavailable": 0}
    fleet.create(devices(device, 8, replicas=2, rollout=surge))
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    said = fleet.wait_for("Stalled", "True", "Unschedulable")
    assert re.fullmatch(
        rf"replica fleet-\S+: needs 8 {device} on one node, largest free is 0, because this"
        r" fleet's own old pods hold them; raise rollout.maxUnavailable or use rollout.strategy"
        r" Recreate",
        said,
    ), said
    # The old pods serve on.
    assert told(fleet) == ("Serving", "2 of 2 replicas ready")
    assert fleet.condition("UpToDate")["reason"] == "Unschedulable"
    fleet.change({"rollout": {"strategy": "Recreate"}})
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_a_fleet_that_others_leave_no_devices_says_how_many_are_free(
    fleet: LiveFleet, api_server: ApiServer, device: str
) -> None:
    other = LiveFleet(api_server, fleet.namespace, "other")
    other.create(devices(device, 4, replicas=4))
    other.settle()
    fleet.create(devices(device, 8))
    check_told(
        fleet,
        "Unschedulable",
        f"0 of 1 replicas ready; replica POD: needs 8 {device} on one node, largest free is 0;"
        " free some, add nodes or lower replicas",
    )
    other.change({"replicas": 0})
    other.settle()
    fleet.settle()


# -- what admission says ---------------------------------------------------------------------------


def enforce_restricted(fleet: LiveFleet) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    fleet.client.patch(f"/api/v1/namespaces/{fleet.namespace}", {"metadata": {"labels": labels}})


def make_quota(fleet: LiveFleet, pods: int) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/resourcequotas"
    hard = {"pods": str(pods)}
    fleet.client.apply(
        f"{path}/small",
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small"},
            "spec": {"hard": hard},
        },
    )
    fleet.wait(
        lambda: fleet.client.get(f"{path}/small").get("status", {}).get("hard") == hard,
        "the quota holds",
    )


def test_a_quota_is_told_and_obeyed(fleet: LiveFleet) -> None:
    make_quota(fleet, 1)
    fleet.create({"replicas": 3})
    check_told(
        fleet,
        "PodRefused",
        "0 of 3 replicas ready; the cluster refuses pods: exceeded quota: small, requested: pods=1,"
        " used: pods=1, limited: pods=1; raise the ResourceQuota or ask for less",
    )
    make_pod_ready(fleet.client, scheduled_pod(fleet))
    fleet.wait(
        lambda: told(fleet)[1].startswith("1 of 3 replicas ready; the cluster refuses pods"),
        "what runs counts",
    )
    assert fleet.condition("Stalled")["status"] == "True"
    make_quota(fleet, 3)
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_our_pods_are_taken_where_restricted_pod_security_is_enforced(fleet: LiveFleet) -> None:
    enforce_restricted(fleet)
    fleet.create({"lora": {}, "model": {"uri": "hf://owner/model"}, "engine": {"sim": {}}})
    fleet.settle()


def limit_range(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/limitranges"
    limit = {"type": "Container", "max": {"memory": "1Gi"}}
    fleet.client.post(path, {"metadata": {"name": "small"}, "spec": {"limits": [limit]}})


def forbid_moving_tags(fleet: LiveFleet) -> None:
    """A policy of the cluster's own, as a webhook would be, for this namespace."""
    name = f"pinned.{fleet.namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    spec = {
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "validations": [
            {
                "expression": "object.spec.containers.all(c, c.image.contains('@sha256:'))",
                "message": "images are named by digest here",
            }
        ],
    }
    label = {"kubernetes.io/metadata.name": fleet.namespace}
    bound = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": label}},
    }
    for kind, body in (("policies", spec), ("policybindings", bound)):
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmission{kind}"
        fleet.client.post(path, {"metadata": {"name": name}, "spec": body})
    pod = {"metadata": {"name": "any"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}

    def is_in_force() -> bool:
        path = f"/api/v1/namespaces/{fleet.namespace}/pods"
        try:
            fleet.client.post(path, pod, dryRun="All")
        except RefusedError as refused:
            return "images are named by digest here" in refused.message
        return False

    fleet.wait(is_in_force, "the policy is in force")


def nothing(fleet: LiveFleet) -> None:
    """The namespace is as it always is."""


NODE_VOLUME: Final = {"name": "runs", "mountPath": "/runs", "hostPath": {"path": "/runs"}}

REFUSED: Final[dict[str, tuple[Callable[[LiveFleet], None], dict[str, Any], str]]] = {
    "a directory of the node, under restricted Pod Security": (
        enforce_restricted,
        {"lora": {"volumes": [NODE_VOLUME]}},
        r'violates PodSecurity "restricted:latest": restricted volume types \(volume "lora-runs"'
        r" uses restricted volume type \"hostPath\"\); see spec.podSecurityContext and"
        " spec.podTemplateOverrides",
    ),
    "more memory than a LimitRange allows": (
        limit_range,
        {"resources": {"limits": {"memory": "2Gi"}}},
        "maximum memory usage per Container is 1Gi, but limit is 2Gi",
    ),
    "an image that a policy does not allow": (
        forbid_moving_tags,
        {"image": "ghcr.io/a/b:latest"},
        r"ValidatingAdmissionPolicy 'pinned\.test-\d+' with binding 'pinned\.test-\d+' denied"
        " request: images are named by digest here",
    ),
    "a PriorityClass that nobody has": (
        nothing,
        {"priorityClassName": "none"},
        "no PriorityClass with name none was found; correct spec.priorityClassName",
    ),
    "a RuntimeClass that nobody has": (
        nothing,
        {"runtimeClassName": "none"},
        '.*RuntimeClass "none" not found; correct spec.runtimeClassName',
    ),
    "a ServiceAccount that nobody has": (
        nothing,
        {"serviceAccountName": "none"},
        'error looking up service account .*: serviceaccount "none" not found; correct'
        " spec.serviceAccountName",
    ),
}


@pytest.mark.parametrize(("prepare", "spec", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_pods_that_the_cluster_refuses_are_told(
    fleet: LiveFleet, prepare: Callable[[LiveFleet], None], spec: dict[str, Any], message: str
) -> None:
    prepare(fleet)
    fleet.create(spec)
    check_told(fleet, "PodRefused", f"0 of 1 replicas ready; the cluster refuses pods: {message}")
    assert fleet.condition("Stalled")["status"] == "True"


# -- what time says --------------------------------------------------------------------------------


def test_a_rollout_without_progress_is_stalled_and_says_why(fleet: LiveFleet) -> None:
    fleet.create({"replicas": 2, "rollout": {"progressDeadlineSeconds": 2}})
    fleet.settle()
    fleet.change({"image": "registry.example/sim:2"})
    found: list[Object] = []

    def has_new_pod() -> bool:
        for pod in fleet.pods():
            if "deletionTimestamp" in pod["metadata"]:
                remove_pod(fleet.client, pod)
            elif pod["spec"]["containers"][0]["image"].endswith(":2") and "nodeName" in pod["spec"]:
                found.append(pod)
        return bool(found)

    fleet.wait(has_new_pod, "the new pod has a node")
    fail_pod(fleet.client, found[0], message="sampler serve: no such option", restarts=1)
    said = fleet.wait_for("Stalled", "True", "ProgressDeadlineExceeded")
    assert said.startswith("the rollout has made no progress for 2 s")
    progressing = fleet.condition("Progressing")
    assert progressing["status"] == "False"
    assert progressing["message"].endswith("sampler serve: no such option")
    assert fleet.condition("Ready")["status"] == "True"
    # The next spec is a new attempt.
    fleet.change({"image": "registry.example/sim:3"})
    fleet.settle()
    assert fleet.condition("Stalled")["status"] == "False"


def test_what_holds_a_container_up_for_long_is_told(
    creating: LiveFleet, operator: OperatorProcess
) -> None:
    pod = scheduled_pod(creating)
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    attach = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other-1'
    warn(creating, pod, "FailedAttachVolume", attach, created)
    creating.wait(lambda: creating.condition("Ready")["reason"] == "MountFailed", "it is told", 45)
    check_told(
        creating,
        "MountFailed",
        f"0 of 1 replicas ready; replica POD: {re.escape(attach)}; replicas on several nodes need a"
        " ReadWriteMany claim",
    )
    assert creating.condition("Stalled")["status"] == "False"
    message = 'MountVolume.SetUp failed for volume "tokens" : secret "tokens" not found'
    warn(creating, pod, "FailedMount", message, created + timedelta(seconds=1))
    creating.wait(
        lambda: "Secret tokens" in creating.condition("Ready")["message"], "news is told", 45
    )
    check_told(
        creating,
        "MountFailed",
        "0 of 1 replicas ready; replica POD: Secret tokens does not exist in namespace creating;"
        rf" create it \({re.escape(message)}\)",
    )
    assert creating.condition("Stalled")["status"] == "True"
    make_pod_ready(creating.client, pod)
    creating.settle()


def warn(fleet: LiveFleet, pod: Object, reason: str, message: str, time: datetime) -> None:
    """What a kubelet, or the controller of attached volumes, tells of a pod."""
    names = {name: pod["metadata"][name] for name in ("name", "namespace", "uid")}
    fleet.client.post(
        f"/api/v1/namespaces/{fleet.namespace}/events",
        {
            "metadata": {"name": reason.lower()},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **names},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 3,
            "lastTimestamp": time.isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
    )


# -- how often it is written -----------------------------------------------------------------------


def test_a_status_is_written_only_when_it_says_something_else(
    fleet: LiveFleet, operator: OperatorProcess
) -> None:
    fleet.create({"replicas": 2})
    fleet.settle()
    version = steady_version(fleet)
    passes = passes_of(operator)
    numbers = itertools.count()

    def has_passes() -> bool:
        note = {"metadata": {"annotations": {"example.com/note": str(next(numbers))}}}
        for pod in fleet.pods():
            fleet.client.patch(pod_path(pod), note)
        fleet.client.patch(fleet.child_path("Service"), note)
        return passes_of(operator) > passes + 5

    fleet.wait(has_passes, "the operator looks again and again")
    ends_quiet(fleet, version)


def steady_version(fleet: LiveFleet) -> str:
    """The resourceVersion when it has stopped changing."""
    versions: list[str] = []

    def is_steady() -> bool:
        versions.append(fleet.get()["metadata"]["resourceVersion"])
        return len(versions) > 30 and len(set(versions[-30:])) == 1

    fleet.wait(is_steady, "its status is settled")
    return versions[-1]


def ends_quiet(fleet: LiveFleet, version: str) -> None:
    """Nothing is written to it for some seconds."""
    with pytest.raises(AssertionError, match="it is written"):
        wait_until(
            lambda: fleet.get()["metadata"]["resourceVersion"] != version,
            "it is written",
            QUIET_SECONDS,
        )


def passes_of(operator: OperatorProcess) -> float:
    return operator.metrics()['sampler_operator_reconciles_total{result="ok"}']


def test_a_claim_of_one_node_that_several_replicas_want_is_told(fleet: LiveFleet) -> None:
    path = f"/api/v1/namespaces/{fleet.namespace}/persistentvolumeclaims"
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"metadata": {"name": "models"}, "spec": asked}
    fleet.client.post(path, claim)
    cache = {"volume": {"persistentVolumeClaim": {"claimName": "models"}}}
    model = {"uri": "hf://a/b", "cache": cache}
    fleet.create({"model": model, "engine": {"sim": None, "torch": {}}, "replicas": 2})
    fleet.wait(lambda: fleet.condition("VolumesShareable"), "the claim is told")
    found = fleet.condition("VolumesShareable")
    assert (found["status"], found["reason"]) == ("False", "ClaimOfOneNode")
    assert "spec.model.cache.volume: claim models is ReadWriteOnce" in found["message"]
    fleet.change({"replicas": 1})
    fleet.wait(lambda: not fleet.condition("VolumesShareable"), "one replica shares with nobody")
