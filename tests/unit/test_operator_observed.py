"""What is remembered of objects, and what pods tell of trouble by their age."""

from datetime import timedelta
from typing import Any

import pytest
from tests.kube_objects import NOW, ago, fleet, pod, running, waiting

from sampler_operator import names
from sampler_operator.names import Ref
from sampler_operator.objects import Manifest
from sampler_operator.observed import PodView, child_view, deployment_view, pod_view
from sampler_operator.spec.parse import parse
from sampler_operator.trouble import age_seconds, is_stuck, seconds_until_stuck, wants_room

OWNER = {"kind": names.KIND, "name": "fleet", "uid": "5f1c", "controller": True}


def child(**meta: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "fleet",
            "namespace": "rl",
            "uid": "u",
            "resourceVersion": "7",
            "generation": 3,
            "managedFields": [{"manager": "x" * 10_000}],
            "labels": {names.FLEET_LABEL: "fleet"},
            "ownerReferences": [OWNER],
            **meta,
        },
        "spec": {"type": "ClusterIP"},
        "status": {"loadBalancer": {}},
    }


def test_of_a_child_its_identity_and_what_manifests_speak_of_are_kept() -> None:
    view = child_view(child())
    assert (view.ref, view.owner, view.fleet) == (Ref("Service", "fleet"), "5f1c", "fleet")
    assert (view.uid, view.version) == ("u", "7")
    assert view.manifest() == {
        "metadata": {
            "name": "fleet",
            "namespace": "rl",
            "labels": {names.FLEET_LABEL: "fleet"},
            "ownerReferences": [OWNER],
        },
        "spec": {"type": "ClusterIP"},
    }


def test_of_a_child_all_annotations_are_kept_since_manifests_have_some() -> None:
    annotations = {names.DIGEST: "0", "example.com/note": "x"}
    view = child_view(child(annotations=annotations))
    assert view.manifest()["metadata"]["annotations"] == annotations


OWNERS: dict[str, tuple[list[Manifest] | None, str]] = {
    "a child without owners": (None, ""),
    "a child whose owner is of another kind": ([{**OWNER, "kind": "Job"}], ""),
    "a child that is only used by a fleet": ([{**OWNER, "controller": False}], ""),
    "a child with several owners": ([{"kind": "Job", "uid": "j"}, OWNER], "5f1c"),
}


@pytest.mark.parametrize(("owners", "uid"), OWNERS.values(), ids=OWNERS.keys())
def test_the_owner_of(owners: list[Manifest] | None, uid: str) -> None:
    assert child_view(child(ownerReferences=owners)).owner == uid


def test_a_deployment_without_status_has_no_pods_yet() -> None:
    view = deployment_view({"metadata": {"generation": 1}})
    assert (view.generation, view.observed_generation) == (1, 0)
    assert (view.replicas, view.updated, view.ready, view.available) == (0, 0, 0, 0)
    assert view.conditions == {}


def test_the_status_of_a_deployment_is_kept_and_of_no_other_kind() -> None:
    obj = child() | {"kind": "Deployment", "status": {"replicas": 2, "readyReplicas": 1}}
    view = child_view(obj).deployment
    assert view is not None
    assert (view.replicas, view.ready) == (2, 1)
    assert child_view(child()).deployment is None


def test_a_pod_that_was_just_made_says_little() -> None:
    view = pod_view({"metadata": {"name": "p"}})
    assert view == PodView("p", "", "", "", "", "")
    assert not view.is_ready


def test_nulls_of_a_pod_are_nothing() -> None:
    nothing = dict.fromkeys(("conditions", "containerStatuses", "initContainerStatuses"))
    meta = {"name": "p", "labels": None, "annotations": None, "deletionTimestamp": None}
    assert pod_view({"metadata": meta, "spec": None, "status": nothing}).containers == ()


ENDED = {"exitCode": 1, "reason": "Error", "message": "no such model"}


def test_of_a_container_that_waits_after_a_crash_both_are_known() -> None:
    found = pod(server=waiting("CrashLoopBackOff", "back-off 10s", restarts=2, last=ENDED))
    [server] = found.containers
    assert (server.waiting_reason, server.waiting_message) == ("CrashLoopBackOff", "back-off 10s")
    assert (server.ended_code, server.ended_reason) == (1, "Error")
    assert (server.ended_message, server.restarts) == ("no such model", 2)
    assert not server.is_running


def test_containers_that_run_first_come_first() -> None:
    found = pod(server=waiting("PodInitializing"), fetch=running())
    assert [(c.name, c.is_init) for c in found.containers] == [
        ("fetch-model", True),
        ("server", False),
    ]


def life(container: str, uid: str = "u1") -> str:
    status = {"containerStatuses": [{"name": "server", "containerID": container}]}
    return pod_view({"metadata": {"name": "p", "uid": uid}, "status": status}).life


def test_a_life_ends_with_the_pod_or_with_its_server() -> None:
    assert life("c1") == life("c1")
    assert len({life("c1"), life("c2"), life("c1", "u2")}) == 3
    sidecar = {"containerStatuses": [{"name": "proxy", "containerID": "x"}]}
    bare = pod_view({"metadata": {"name": "p", "uid": "u1"}, "status": sidecar})
    assert bare.life == pod_view({"metadata": {"name": "p", "uid": "u1"}}).life


# Trouble


AGES = {
    "a time of the API server": (ago(5), 5.0),
    "a time without a zone is UTC": (ago(5).removesuffix("Z"), 5.0),
    "a time of another zone": ("2026-11-26T12:59:00+01:00", 60.0),
    "a time that is none": ("yesterday", 0.0),
    "no time": ("", 0.0),
}


@pytest.mark.parametrize(("created", "age"), AGES.values(), ids=AGES.keys())
def test_the_age_of_a_pod_with(created: str, age: float) -> None:
    assert age_seconds(PodView("p", "u", "f", "t", created, ""), NOW) == age


CREATING = waiting("ContainerCreating")
STUCK: dict[str, tuple[PodView, bool, float | None]] = {
    "a pod that is being created": (pod(server=CREATING, age=5), False, 15.5),
    "a pod that is being created for long": (pod(server=CREATING, age=21), True, None),
    "a pod whose kubelet says nothing": (pod(age=21), True, None),
    "a pod that waits for its init containers": (
        pod(server=waiting("PodInitializing"), age=21),
        True,
        None,
    ),
    "a pod that downloads its model": (
        pod(server=waiting("PodInitializing"), fetch=running(), age=900),
        False,
        None,
    ),
    "a pod whose download fails says so itself": (
        pod(server=waiting("PodInitializing"), fetch=waiting("CrashLoopBackOff"), age=900),
        False,
        None,
    ),
    "a pod whose image is not there says so itself": (
        pod(server=waiting("ImagePullBackOff"), age=21),
        False,
        None,
    ),
    "a pod without a node": (pod(unschedulable="no room", age=21), False, None),
    "a pod that leaves": (pod(server=CREATING, age=21, is_leaving=True), False, None),
    "a pod that runs": (pod(is_ready=True, age=21), False, None),
    "a pod that has failed": (pod(phase="Failed", age=21), False, None),
}


@pytest.mark.parametrize(("found", "stuck", "again"), STUCK.values(), ids=STUCK.keys())
def test_events_are_read_of(found: PodView, stuck: bool, again: float | None) -> None:
    assert is_stuck(found, NOW) == stuck
    assert seconds_until_stuck(found, NOW) == again


def test_a_look_at_the_given_time_finds_it_stuck() -> None:
    found = pod(server=CREATING, age=5)
    wait = seconds_until_stuck(found, NOW)
    assert wait is not None
    assert is_stuck(found, NOW + timedelta(seconds=wait))


NO_GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
NO_CPU = "0/2 nodes are available: 2 Insufficient cpu."
ROOM: dict[str, tuple[PodView, Manifest, bool]] = {
    "a pod that finds no GPU": (pod(unschedulable=NO_GPU), {}, True),
    "a pod that finds no CPU": (pod(unschedulable=NO_CPU), {}, False),
    "a pod of a fleet without GPUs": (pod(unschedulable=NO_GPU), {"gpu": {"count": 0}}, False),
    "a pod that leaves": (pod(unschedulable=NO_GPU, is_leaving=True), {}, False),
    "a pod with a node": (pod(), {}, False),
}


@pytest.mark.parametrize(("found", "spec", "expected"), ROOM.values(), ids=ROOM.keys())
def test_room_is_asked_for_by(found: PodView, spec: Manifest, expected: bool) -> None:
    assert wants_room(found, parse(fleet(spec))) == expected
