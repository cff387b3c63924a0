"""What people change or delete is set right; what they add stays."""

from collections.abc import Callable
from typing import Any, Final

from tests.apiserver_client import Object
from tests.every_child import KINDS, containers, wait_for_quiet
from tests.live_fleet import LiveFleet
from tests.operator_process import OperatorProcess

from sampler_operator.names import MANAGED_BY

EDITS: Final[dict[str, tuple[str, Object, Callable[[Object], Any]]]] = {
    "the adapters' file": (
        "ConfigMap",
        {"data": {"adapters.json": "{}"}},
        lambda child: child["data"]["adapters.json"],
    ),
    "the adapters' file is taken out": (
        "ConfigMap",
        {"data": None},
        lambda child: child["data"]["adapters.json"],
    ),
    "the image": (
        "Deployment",
        {"spec": {"template": {"spec": {"containers": [{"name": "server", "image": "other"}]}}}},
        lambda child: child["spec"]["template"]["spec"]["containers"][0]["image"],
    ),
    "a variable": (
        "Deployment",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {"name": "server", "env": [{"name": "HOME", "value": "/elsewhere"}]}
                        ]
                    }
                }
            }
        },
        lambda child: child["spec"]["template"]["spec"]["containers"][0]["env"],
    ),
    "the strategy": (
        "Deployment",
        {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 2}}}},
        lambda child: child["spec"]["strategy"],
    ),
    "a pause": ("Deployment", {"spec": {"paused": True}}, lambda c: c["spec"].get("paused", False)),
    "the Service's port": (
        "Service",
        {"spec": {"ports": [{"port": 8000, "targetPort": 1}]}},
        lambda child: child["spec"]["ports"],
    ),
    "the Service's type": (
        "Service",
        {"spec": {"type": "NodePort"}},
        lambda child: child["spec"]["type"],
    ),
    "a further word of the Service's selector": (
        "Service",
        {"spec": {"selector": {"track": "canary"}}},
        lambda child: child["spec"]["selector"],
    ),
    "another selector of the headless Service": (
        "Discovery",
        {"spec": {"selector": {"sampler.dev/fleet": "other"}}},
        lambda child: child["spec"]["selector"],
    ),
    "how many may be evicted": (
        "PodDisruptionBudget",
        {"spec": {"maxUnavailable": "100%"}},
        lambda child: child["spec"]["maxUnavailable"],
    ),
    "whom the budget protects": (
        "PodDisruptionBudget",
        {"spec": {"selector": {"matchLabels": {"track": "canary"}}}},
        lambda child: child["spec"]["selector"],
    ),
    "the policy's peers": (
        "NetworkPolicy",
        {"spec": {"ingress": [{}]}},
        lambda child: child["spec"]["ingress"],
    ),
    "whom the policy is for": (
        "NetworkPolicy",
        {"spec": {"podSelector": {"matchLabels": {"track": "canary"}}}},
        lambda child: child["spec"]["podSelector"],
    ),
    "the policy's types": (
        "NetworkPolicy",
        {"spec": {"policyTypes": ["Ingress", "Egress"]}},
        lambda child: child["spec"]["policyTypes"],
    ),
    "a label that says whose it is": (
        "Service",
        {"metadata": {"labels": {"sampler.dev/fleet": "other"}}},
        lambda child: child["metadata"]["labels"],
    ),
    "the label by which the operator sees it is taken away": (
        "ConfigMap",
        {"metadata": {"labels": {MANAGED_BY: None}}},
        lambda child: child["metadata"]["labels"],
    ),
    "the label by which the operator sees it is another's": (
        "Deployment",
        {"metadata": {"labels": {MANAGED_BY: "helm"}}},
        lambda child: child["metadata"]["labels"],
    ),
}


def test_what_is_changed_by_hand_is_set_right(fleet: LiveFleet, operator: OperatorProcess) -> None:
    before = {kind: fleet.child(kind) for kind in KINDS}
    for what, (kind, edit, part) in EDITS.items():
        wanted = part(before[kind])
        patched = fleet.client.patch(
            fleet.child_path(kind), edit, kind="strategic-merge", fieldManager="kubectl-edit"
        )
        assert "data" in edit or part(patched) != wanted, what
        fleet.wait(
            lambda kind=kind, part=part, wanted=wanted: _read(part, fleet.child(kind)) == wanted,  # type: ignore[misc]
            f"{what} ({kind}) is as it was: {wanted}",
        )
    fleet.settle()
    after = {kind: fleet.child(kind) for kind in KINDS}
    for kind in KINDS:
        assert after[kind]["metadata"]["uid"] == before[kind]["metadata"]["uid"]
    wait_for_quiet(operator)


def _read(part: Callable[[Object], Any], child: Object) -> Any:
    try:
        return part(child)
    except KeyError:
        return None


def test_what_is_deleted_by_hand_comes_back(fleet: LiveFleet) -> None:
    before = {kind: fleet.child(kind)["metadata"]["uid"] for kind in KINDS}
    for kind in KINDS:
        fleet.client.delete(fleet.child_path(kind), {"propagationPolicy": "Background"})
    for kind in KINDS:
        fleet.wait(
            lambda kind=kind: (  # type: ignore[misc]
                fleet.metadata_of(kind).get("uid", before[kind]) != before[kind]
            ),
            f"{kind} is there again",
        )
    fleet.settle()


def test_what_others_add_to_a_child_stays(fleet: LiveFleet, operator: OperatorProcess) -> None:
    foreign = {
        "labels": {"team": "a"},
        "annotations": {"example.com/note": "b"},
        "finalizers": ["example.com/hold"],
    }
    for kind in KINDS:
        fleet.client.patch(fleet.child_path(kind), {"metadata": foreign})
    # Fields of a Service that the API server or an administrator sets.
    fleet.client.patch(
        fleet.child_path("Service"),
        {"spec": {"sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local"}},
    )
    address = fleet.child("Service")["spec"]["clusterIP"]
    fleet.change({"rollout": {"drainSeconds": 5}, "disruptionBudget": {"maxUnavailable": 2}})
    fleet.settle()
    wait_for_quiet(operator)
    for kind in KINDS:
        metadata = fleet.child(kind)["metadata"]
        assert metadata["labels"]["team"] == "a"
        assert metadata["annotations"]["example.com/note"] == "b"
        assert metadata["finalizers"] == ["example.com/hold"]
    service = fleet.child("Service")["spec"]
    assert service["clusterIP"] == address
    assert service["sessionAffinity"] == "ClientIP"
    assert service["internalTrafficPolicy"] == "Local"
    # A child that somebody holds while it is deleted comes back when it has gone.
    for kind in KINDS:
        fleet.client.delete(fleet.child_path(kind), {"propagationPolicy": "Background"})
    for kind in KINDS:
        assert not fleet.has_child(kind)
        fleet.client.patch(fleet.child_path(kind), {"metadata": {"finalizers": None}})
    for kind in KINDS:
        fleet.wait(lambda kind=kind: fleet.has_child(kind), f"{kind} is there again")  # type: ignore[misc]


def pod_patch(**parts: Any) -> Object:
    return {"spec": {"template": {"spec": parts}}}


def pod_of(child: Object) -> Object:
    found: Object = child["spec"]["template"]["spec"]
    return found


def entries(parts: list[Object]) -> dict[str, Object]:
    return {each["name"]: each for each in parts}


ADDITIONS: Final[dict[str, tuple[str, Object, Callable[[Object], object]]]] = {
    "a container": (
        "Deployment",
        pod_patch(containers=[{"name": "proxy", "image": "proxy:1"}]),
        lambda child: "proxy" in entries(pod_of(child)["containers"]),
    ),
    "a variable": (
        "Deployment",
        pod_patch(containers=[{"name": "server", "env": [{"name": "ADDED", "value": "theirs"}]}]),
        lambda child: (
            entries(entries(pod_of(child)["containers"])["server"]["env"])
            .get("ADDED", {})
            .get("value")
            == "theirs"
        ),
    ),
    "a field of the pod": (
        "Deployment",
        pod_patch(hostPID=True),
        lambda child: pod_of(child).get("hostPID"),
    ),
    "a restart": (
        "Deployment",
        {"spec": {"template": {"metadata": {"annotations": {"example.com/restarted": "now"}}}}},
        lambda child: (
            "example.com/restarted" in child["spec"]["template"]["metadata"]["annotations"]
        ),
    ),
    "a port of the Service": (
        "Service",
        {"spec": {"ports": [{"name": "other", "port": 81}]}},
        lambda child: "other" in entries(child["spec"]["ports"]),
    ),
}


def test_what_is_added_by_hand_stays_until_the_spec_says_otherwise(
    fleet: LiveFleet, operator: OperatorProcess
) -> None:
    """Decision 10: what others own and the spec is silent about is theirs, as of all appliers."""
    for what, (kind, addition, is_there) in ADDITIONS.items():
        patched = fleet.client.patch(
            fleet.child_path(kind), addition, kind="strategic-merge", fieldManager="kubectl-edit"
        )
        assert is_there(patched), what
    fleet.settle()
    # The operator writes the Deployment and knows better about what is its own, not about the rest.
    fleet.change({"env": [{"name": "OURS", "value": "1"}], "rollout": {"drainSeconds": 5}})
    fleet.settle()
    wait_for_quiet(operator)
    for what, (kind, _, is_there) in ADDITIONS.items():
        assert is_there(fleet.child(kind)), what

    def variables() -> dict[str, Object]:
        return entries(containers(fleet)["server"]["env"])

    fleet.change({"env": [{"name": "ADDED", "value": "ours"}]})
    fleet.settle()
    assert variables()["ADDED"]["value"] == "ours"
    fleet.change({"env": None})
    fleet.settle()
    # The value was taken from them, the entry was not.
    assert variables()["ADDED"] == {"name": "ADDED"}
    # Whoever wants none of it deletes the child.
    for kind in ("Deployment", "Service"):
        before = fleet.child(kind)["metadata"]["uid"]
        fleet.client.delete(fleet.child_path(kind), {"propagationPolicy": "Background"})
        fleet.wait(
            lambda kind=kind, before=before: (  # type: ignore[misc]
                fleet.metadata_of(kind).get("uid", before) != before
            ),
            f"{kind} is there again",
        )
    for what, (kind, _, is_there) in ADDITIONS.items():
        assert not is_there(fleet.child(kind)), what
