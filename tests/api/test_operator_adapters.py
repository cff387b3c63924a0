"""Declared adapters and base weights: what replicas tell the operator, and what it tells them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import msgspec
import pytest
from tests.apiserver_client import Object
from tests.apiserver_pods import make_pod_ready, make_pod_unready, pod_path, remove_pod
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until
from tests.status_replica import StatusReplica

from sampler_api.fleet import ADAPTERS_FILE, AdaptersConfig, DeclaredAdapter, RequiredAdapter
from sampler_operator.names import ADAPTERS_HASH, TEMPLATE_HASH_LABEL

Replica = Callable[..., StatusReplica]

QUIET_SECONDS: Final = 3.0
FIRST, SECOND = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
BASE, OTHER_BASE = f"sha256:{'c' * 64}", f"sha256:{'d' * 64}"


pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def replica() -> Iterator[Replica]:
    """Makes replicas that end with the test."""
    with ExitStack() as stack:
        yield lambda base=BASE: stack.enter_context(StatusReplica(base))


def lora(*names: str, **more: Any) -> dict[str, Any]:
    """A spec that declares adapters."""
    volume = {"name": "runs", "mountPath": "/runs", "emptyDir": {}}
    adapters = [{"name": name, "path": f"/runs/{name}"} for name in names]
    return {"lora": {"volumes": [volume], "adapters": adapters}, **more}


def config(fleet: LiveFleet) -> AdaptersConfig:
    """What the pods are told."""
    text = fleet.child("ConfigMap")["data"][ADAPTERS_FILE]
    return msgspec.json.decode(text, type=AdaptersConfig)


def wait_declared(fleet: LiveFleet, *names: str) -> AdaptersConfig:
    """Until the pods are told of these adapters."""
    fleet.wait(
        lambda: (
            fleet.has_child("ConfigMap")
            and tuple(adapter.name for adapter in config(fleet).declared) == names
        ),
        f"the pods are told of {names}",
    )
    return config(fleet)


def waiting_pods(fleet: LiveFleet, number: int) -> list[Object]:
    """So many pods that have a node and are not ready."""
    found: list[Object] = []

    def are_there() -> bool:
        found[:] = [
            pod
            for pod in fleet.pods()
            if "nodeName" in pod["spec"]
            and "deletionTimestamp" not in pod["metadata"]
            and not any(each["ready"] for each in pod["status"].get("containerStatuses", ()))
        ]
        return len(found) == number

    fleet.wait(are_there, f"{number} pods have nodes")
    return found


def serve(fleet: LiveFleet, pod: Object, replica: StatusReplica) -> None:
    """The pod is ready, and is ``replica``."""
    make_pod_ready(fleet.client, pod, ip=replica.address)


def annotation(fleet: LiveFleet, pod: Object) -> str | None:
    found: str | None = fleet.client.get(pod_path(pod))["metadata"]["annotations"].get(
        ADAPTERS_HASH
    )
    return found


def adapters_of(fleet: LiveFleet) -> list[Object]:
    found: list[Object] = fleet.status().get("adapters", [])
    return found


def test_from_a_declared_adapter_to_one_that_every_replica_holds(
    fleet: LiveFleet, replica: Replica
) -> None:
    fleet.create(lora("good", "bad"))
    told = wait_declared(fleet, "good", "bad")
    assert told == AdaptersConfig(
        (DeclaredAdapter("good", "/runs/good"), DeclaredAdapter("bad", "/runs/bad"))
    )
    fleet.wait_for("AdaptersReady", "False", "NoReplicas")
    # The first replica decides by trying, and is ready whatever came of it.
    first = replica()
    first.take_in(told, {"good": FIRST}, {"bad": "/runs/bad: no such directory"})
    (pod,) = waiting_pods(fleet, 1)
    serve(fleet, pod, first)
    said = fleet.wait_for("AdaptersReady", "False", "AdapterFailed")
    name = pod["metadata"]["name"]
    assert said == (
        "adapter bad is held by 0 of 1 ready replicas: replica"
        f" {name}: /runs/bad: no such directory"
    )
    assert fleet.condition("Ready")["status"] == "True"
    assert adapters_of(fleet) == [
        {"name": "good", "digest": FIRST, "replicas": 1},
        {"name": "bad", "replicas": 0, "message": f"replica {name}: /runs/bad: no such directory"},
    ]
    assert fleet.status()["adaptersSummary"] == "1/2"
    # Who joins waits for what is held, and not for what nobody can hold.
    fleet.wait(
        lambda: config(fleet).required == (RequiredAdapter("good", FIRST),), "good is required"
    )
    assert annotation(fleet, pod) is None
    # The set changes: the replica lags behind, and is touched so that its mount is refreshed.
    fleet.change(lora("good", "better"))
    told = wait_declared(fleet, "good", "better")
    fleet.wait(lambda: annotation(fleet, pod) == told.declared_hash, "the pod is touched")
    fleet.wait_for("AdaptersReady", "False", "AdaptersLoading")
    first.take_in(told, {"good": FIRST, "better": SECOND})
    fleet.wait_for("AdaptersReady", "True", "AdaptersHeld")
    assert [each["replicas"] for each in adapters_of(fleet)] == [1, 1]
    assert fleet.status()["adaptersSummary"] == "2/2"
    assert {each.name for each in config(fleet).required or ()} == {"good", "better"}
    # All that without a new pod.
    assert len(fleet.replica_sets()) == 1


def test_replicas_are_counted_and_left_alone_once_they_have_told(
    fleet: LiveFleet, replica: Replica, operator: OperatorProcess
) -> None:
    fleet.create(lora("a", replicas=2))
    told = wait_declared(fleet, "a")
    one, two = replica(), replica()
    one.take_in(told, {"a": FIRST})
    two.take_in(told, {})
    for pod, each in zip(waiting_pods(fleet, 2), (one, two), strict=True):
        serve(fleet, pod, each)
    said = fleet.wait_for("AdaptersReady", "False", "AdaptersLoading")
    assert said == "adapter a is held by 1 of 2 ready replicas"
    assert adapters_of(fleet) == [{"name": "a", "digest": FIRST, "replicas": 1}]
    # Who loads is asked again, who has told is not.
    asked = one.asked
    two.take_in(told, {"a": FIRST})
    fleet.wait_for("AdaptersReady", "True", "AdaptersHeld")
    assert adapters_of(fleet) == [{"name": "a", "digest": FIRST, "replicas": 2}]
    assert one.asked == asked
    check_quiet(fleet, one, two)
    # A new operator asks each once, and finds nothing to write.
    fleet.wait(lambda: fleet.condition("UpToDate")["status"] == "True", "the fleet is up to date")
    before = one.asked, two.asked
    assert operator.stop() == 0
    operator.start()
    fleet.wait(lambda: one.asked > before[0] and two.asked > before[1], "both are asked")
    check_quiet(fleet, one, two)
    assert (one.asked, two.asked) == (before[0] + 1, before[1] + 1)
    assert operator.writes() == 0
    # A server that has started again is asked again.
    (pod, _) = fleet.pods()
    statuses = pod["status"]["containerStatuses"]
    statuses[0] |= {"restartCount": 1, "containerID": "containerd://2"}
    asked = one.asked + two.asked
    patch = {"status": {"containerStatuses": statuses}}
    fleet.client.patch(f"{pod_path(pod)}/status", patch, kind="strategic-merge")
    fleet.wait(lambda: one.asked + two.asked == asked + 1, "it is asked")


def check_quiet(fleet: LiveFleet, *replicas: StatusReplica) -> None:
    """For some seconds nobody is asked, although pods change."""
    asked = [each.asked for each in replicas]
    note = {"metadata": {"annotations": {"example.com/note": "x"}}}
    for pod in fleet.pods():
        fleet.client.patch(pod_path(pod), note)
    with pytest.raises(AssertionError, match="somebody is asked"):
        wait_until(
            lambda: [each.asked for each in replicas] != asked, "somebody is asked", QUIET_SECONDS
        )


def test_a_revision_that_is_named_is_the_only_one_that_counts(
    fleet: LiveFleet, replica: Replica
) -> None:
    spec = lora("a")
    spec["lora"]["adapters"][0]["digest"] = FIRST
    fleet.create(spec)
    told = wait_declared(fleet, "a")
    assert told.declared[0].digest == FIRST
    one = replica()
    one.take_in(told, {}, {"a": f"/runs/a: its digest is {SECOND}"})
    serve(fleet, waiting_pods(fleet, 1)[0], one)
    said = fleet.wait_for("AdaptersReady", "False", "AdapterFailed")
    assert said.endswith(f"/runs/a: its digest is {SECOND}")
    (entry,) = adapters_of(fleet)
    assert (entry["digest"], entry["replicas"]) == (FIRST, 0)
    fleet.wait(lambda: config(fleet).required == (), "nothing is required")


def test_a_replica_that_does_not_answer_holds_nothing(fleet: LiveFleet, replica: Replica) -> None:
    fleet.create(lora("a"))
    wait_declared(fleet, "a")
    (pod,) = waiting_pods(fleet, 1)
    with StatusReplica(BASE) as gone:
        address = gone.address
    make_pod_ready(fleet.client, pod, ip=address)
    said = fleet.wait_for("AdaptersReady", "False", "StatusUnreachable")
    assert f"replica {pod['metadata']['name']}: no status from http://{address}:9000/status" in said
    assert adapters_of(fleet) == [{"name": "a", "replicas": 0}]
    # Sampling goes on: whether it serves is the kubelet's to say.
    fleet.wait_for("Ready")
    fleet.change({"replicas": 0})
    fleet.wait_for("AdaptersReady", "False", "ScaledToZero")


def template_of(pod: Object) -> str:
    found: str = pod["metadata"]["labels"][TEMPLATE_HASH_LABEL]
    return found


def bases(fleet: LiveFleet) -> dict[str, str]:
    return {each["template"]: each["digest"] for each in fleet.status().get("bases", ())}


def test_the_first_ready_replica_of_a_template_sets_its_base(
    fleet: LiveFleet, replica: Replica
) -> None:
    fleet.create({"replicas": 2})
    first, second = waiting_pods(fleet, 2)
    template = template_of(first)
    assert template == template_of(second)
    serve(fleet, first, replica(BASE))
    fleet.wait(lambda: bases(fleet) == {template: BASE}, "its base is recorded")
    fleet.wait(lambda: config(fleet).bases == {template: BASE}, "the pods are told")
    # The second has found other weights: it keeps out by itself, and the fleet says why.
    other = replica(OTHER_BASE)
    other.status = msgspec.structs.replace(other.status, ready=False)
    address = {"podIP": other.address, "podIPs": [{"ip": other.address}]}
    path = f"{pod_path(second)}/status"
    fleet.client.patch(path, {"status": address}, kind="strategic-merge")
    make_pod_unready(fleet.client, second)
    said = fleet.wait_for("UpToDate", "False", "ModelMismatch")
    assert said.endswith(
        f"replica {second['metadata']['name']}: base {OTHER_BASE} differs from {BASE} of this"
        " template; set model.digest, or fix model.revision to one commit"
    )
    assert fleet.condition("Stalled")["status"] == "True"
    assert fleet.condition("Ready")["status"] == "True"
    assert bases(fleet) == {template: BASE}
    # Another template may have another base; the former one is known until its pods have gone.
    fleet.change({"image": "registry.example/sim:2", "rollout": {"maxUnavailable": 2}})
    fresh: list[Object] = []

    def are_new() -> bool:
        pods = fleet.pods()
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                remove_pod(fleet.client, pod)
        fresh[:] = [
            pod for pod in pods if template_of(pod) != template and "nodeName" in pod["spec"]
        ]
        return len(fresh) == 2 and len(pods) == 2

    fleet.wait(are_new, "the pods are new ones")
    # Nobody serves: what the former pods had is still known.
    assert config(fleet).bases == {template: BASE}
    for pod in fresh:
        serve(fleet, pod, replica(OTHER_BASE))
    newest = template_of(fresh[0])
    fleet.wait(lambda: bases(fleet) == {newest: OTHER_BASE}, "the new base is recorded alone")
    fleet.wait(lambda: config(fleet).bases == {newest: OTHER_BASE}, "the pods are told")
    fleet.wait_for("UpToDate")
    assert fleet.condition("Stalled")["status"] == "False"
