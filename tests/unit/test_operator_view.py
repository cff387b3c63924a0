"""What the operator believes to be there, from watches, answers of its writes, and lists."""

import itertools
from typing import Any

import pytest

from sampler_operator import names
from sampler_operator.kube.view import KubeView
from sampler_operator.names import Key, Ref
from sampler_operator.objects import Manifest
from sampler_operator.observed import child_view

A, B = Key("rl", "a"), Key("rl", "b")
SERVICE = Ref("Service", "a")


def sd(version: int, uid: str = "sd-1", name: str = "a", **more: Any) -> Manifest:
    meta = {"name": name, "namespace": "rl", "uid": uid, "resourceVersion": str(version)}
    return {"kind": names.KIND, "metadata": meta, "spec": {}, **more}


def service(
    version: int, uid: str = "s-1", owner: str = "sd-1", fleet: str = "a", value: str = ""
) -> Manifest:
    return {
        "kind": "Service",
        "metadata": {
            "name": "a",
            "namespace": "rl",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {names.FLEET_LABEL: fleet} if fleet else {},
            "ownerReferences": [{"kind": names.KIND, "uid": owner, "controller": True}],
        },
        "spec": {"value": value or f"at {version}"},
    }


def pod(version: int, name: str = "p1", fleet: str = "a", uid: str = "") -> Manifest:
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "rl",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {names.FLEET_LABEL: fleet} if fleet else {},
        },
        "status": {"phase": f"at {version}"},
    }


@pytest.fixture
def view() -> KubeView:
    made = KubeView()
    made.put(sd(1))
    return made


def wrote(view: KubeView, obj: Manifest) -> None:
    view.wrote(A, child_view(obj))


def shown(view: KubeView, key: Key = A) -> str | None:
    """What the Service says."""
    observed = view.observed(key)
    assert observed is not None
    child = observed.children.get(SERVICE)
    return child.manifest()["spec"]["value"] if child is not None else None


def phases(view: KubeView, key: Key = A) -> dict[str, str]:
    observed = view.observed(key)
    assert observed is not None
    return {pod.name: pod.phase for pod in observed.pods}


def test_nothing_is_known_of_what_was_not_seen(view: KubeView) -> None:
    assert view.observed(B) is None
    observed = view.observed(A)
    assert observed is not None
    assert (observed.children, observed.pods) == ({}, ())


# Our own writes


def test_a_write_is_seen_before_the_watch_shows_it(view: KubeView) -> None:
    wrote(view, service(5))
    assert shown(view) == "at 5"


def test_a_watch_that_lags_hides_no_write(view: KubeView) -> None:
    wrote(view, service(5))
    view.put(service(4))
    assert shown(view) == "at 5"


def test_what_others_did_after_a_write_counts(view: KubeView) -> None:
    wrote(view, service(5))
    view.put(service(6))
    assert shown(view) == "at 6"


def test_an_answer_that_comes_after_the_watch_is_old(view: KubeView) -> None:
    view.put(service(6))
    wrote(view, service(5))
    assert shown(view) == "at 6"


def test_versions_are_numbers_and_not_text(view: KubeView) -> None:
    view.put(service(10))
    wrote(view, service(9))
    assert shown(view) == "at 10"


def test_a_child_that_was_deleted_before_the_answer_came_stays_away(view: KubeView) -> None:
    view.end(service(6))
    wrote(view, service(5))
    assert shown(view) is None


def test_a_child_that_was_made_again_counts(view: KubeView) -> None:
    wrote(view, service(5, "s-1"))
    view.end(service(6, "s-1"))
    assert shown(view) is None
    wrote(view, service(7, "s-2"))
    assert shown(view) == "at 7"


def test_the_end_of_its_predecessor_does_not_touch_a_new_child(view: KubeView) -> None:
    view.put(service(5, "s-1"))
    wrote(view, service(7, "s-2"))
    view.end(service(6, "s-1"))
    assert shown(view) == "at 7"


def test_the_status_that_was_written_is_seen_at_once(view: KubeView) -> None:
    view.wrote_sd(A, sd(5, status={"summary": "1/1"}))
    view.put(sd(4, status={"summary": "0/1"}))
    observed = view.observed(A)
    assert observed is not None
    assert observed.sd["status"] == {"summary": "1/1"}


def test_a_status_of_a_deleted_fleet_brings_nothing_back(view: KubeView) -> None:
    view.end(sd(5))
    view.wrote_sd(A, sd(4))
    assert view.observed(A) is None
    assert view.all_keys() == []


def test_a_fleet_that_was_made_again_has_none_of_the_former_ones_children(view: KubeView) -> None:
    view.put(service(2))
    view.end(sd(3))
    view.put(sd(4, "sd-2"))
    assert shown(view) is None
    view.put(service(5, owner="sd-2"))
    assert shown(view) == "at 5"


# Labels that others change


def test_a_child_without_our_label_is_gone_until_it_has_it_again(view: KubeView) -> None:
    view.put(service(2))
    view.end(service(3))
    assert shown(view) is None
    wrote(view, service(4))
    assert shown(view) == "at 4"


def test_a_late_event_about_a_lost_label_does_not_undo_its_repair(view: KubeView) -> None:
    view.put(service(2))
    wrote(view, service(4))
    view.end(service(3))
    assert shown(view) == "at 4"


def test_a_child_is_of_the_fleet_of_its_label(view: KubeView) -> None:
    view.put(sd(2, "sd-2", "b"))
    view.put(service(3))
    assert view.put(service(4, owner="sd-2", fleet="b")) == {A, B}
    assert shown(view) is None
    assert shown(view, B) == "at 4"


def test_an_old_event_does_not_move_a_child_back(view: KubeView) -> None:
    view.put(sd(2, "sd-2", "b"))
    view.put(service(4, owner="sd-2", fleet="b"))
    view.put(service(3))
    assert (shown(view), shown(view, B)) == (None, "at 4")


def test_a_pod_that_was_taken_out_of_its_fleet_is_no_more_of_it(view: KubeView) -> None:
    view.put(pod(2))
    assert view.put(pod(3, fleet="")) == {A, Key("rl", "")}
    assert phases(view) == {}
    view.put(pod(4))
    assert phases(view) == {"p1": "at 4"}


def test_the_end_of_a_pod_is_seen_under_any_label(view: KubeView) -> None:
    view.put(pod(2))
    assert view.end(pod(3, fleet="b")) == {A}
    assert phases(view) == {}


# Pods


def test_pods_come_in_the_order_of_their_names(view: KubeView) -> None:
    for name in ("p3", "p1", "p2"):
        view.put(pod(2, name))
    assert list(phases(view)) == ["p1", "p2", "p3"]


def test_a_pod_of_the_same_name_is_another_one(view: KubeView) -> None:
    view.put(pod(2, uid="u1"))
    view.put(pod(4, uid="u2"))
    view.end(pod(3, uid="u1"))
    assert phases(view) == {"p1": "at 4"}


# Sweeps


def test_what_a_list_does_not_show_has_ended(view: KubeView) -> None:
    view.put(pod(2, "p1"))
    view.put(pod(3, "p2"))
    assert view.sweep("Pod", "", {"uid-p2"}, at=5) == {A}
    assert phases(view) == {"p2": "at 3"}


def test_what_is_younger_than_a_list_has_not_ended(view: KubeView) -> None:
    view.put(pod(6))
    assert view.sweep("Pod", "", set(), at=5) == set()
    assert phases(view) == {"p1": "at 6"}


def test_a_list_of_one_namespace_says_nothing_of_another(view: KubeView) -> None:
    view.put(pod(2))
    assert view.sweep("Pod", "other", set(), at=5) == set()
    assert view.sweep("Pod", "rl", set(), at=5) == {A}


def test_a_list_of_one_kind_says_nothing_of_another(view: KubeView) -> None:
    view.put(service(2))
    for kind in ("ConfigMap", "Pod"):
        assert view.sweep(kind, "", set(), at=5) == set()
    assert view.sweep("Service", "", set(), at=5) == {A}
    assert shown(view) is None


def test_fleets_are_swept_too(view: KubeView) -> None:
    assert view.sweep(names.KIND, "", set(), at=5) == {A}
    assert view.observed(A) is None


# Orders of events


EVENTS = {
    "made": service(2),
    "changed": service(3),
    "lost its label": service(4),
    "has it again": service(5),
}


@pytest.mark.parametrize("order", [*itertools.permutations(EVENTS)], ids=", ".join)
def test_the_last_state_counts_in_whatever_order_states_arrive(
    view: KubeView, order: tuple[str, ...]
) -> None:
    for name in order:
        see = view.end if name == "lost its label" else view.put
        see(EVENTS[name])
    assert shown(view) == "at 5"


def test_versions_that_are_no_numbers_do_not_order_anything(view: KubeView) -> None:
    strange = service(2)
    strange["metadata"]["resourceVersion"] = "abc"
    view.put(strange)
    assert shown(view) == "at 2"
