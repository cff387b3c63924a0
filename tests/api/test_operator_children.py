"""The operator's children on a real API server: healed, brought back, never taken from others.

Its resync is short here, so that a field over which it would quarrel with somebody shows as writes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from tests.apiserver import ApiServer
from tests.apiserver_client import Object
from tests.live_fleet import SIM, LiveFleet
from tests.operator_process import OperatorProcess
from tests.pod_monitors import install_pod_monitors, remove_pod_monitors
from tests.proxy import wait_until
from tests.spec_cases import changed

from sampler_operator.names import MANAGED_BY

EVERY_CHILD: Final[dict[str, Any]] = {
    "replicas": 2,
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]},
}
KINDS: Final = (
    "ConfigMap",
    "Deployment",
    "Discovery",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
)
QUIET_PASSES: Final = 3


@pytest.fixture(scope="module", autouse=True)
def operator(api_server: ApiServer, nodes: tuple[str, ...]) -> Iterator[OperatorProcess]:
    assert nodes
    with OperatorProcess(api_server, "--resync-seconds", "1") as running:
        yield running


@pytest.fixture
def fleet(api_server: ApiServer, namespace: str) -> LiveFleet:
    """Up to date, with a child of every kind that needs no other software."""
    made = LiveFleet(api_server, namespace)
    made.create(EVERY_CHILD)
    made.settle()
    return made


def wait_for_quiet(operator: OperatorProcess) -> None:
    """Until nothing is written for some seconds, with a look at everything each second."""

    def is_quiet() -> bool:
        writes, passes = operator.writes(), _passes(operator)
        wait_until(lambda: _passes(operator) >= passes + QUIET_PASSES, "the operator looks again")
        return operator.writes() == writes

    wait_until(is_quiet, "the operator has nothing more to write")


def _passes(operator: OperatorProcess) -> float:
    return operator.metrics()['sampler_operator_reconciles_total{result="ok"}']


# -- what is changed by hand -----------------------------------------------------------------------

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
                fleet.has_child(kind) and fleet.child(kind)["metadata"]["uid"] != before[kind]
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
                fleet.has_child(kind) and fleet.child(kind)["metadata"]["uid"] != before
            ),
            f"{kind} is there again",
        )
    for what, (kind, _, is_there) in ADDITIONS.items():
        assert not is_there(fleet.child(kind)), what


# -- what belongs to others ------------------------------------------------------------------------

FOREIGN: Final[dict[str, Object]] = {
    "ConfigMap": {"data": {"other.json": "mine"}},
    "Deployment": {
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web"}]},
            },
        }
    },
    "Discovery": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
    "NetworkPolicy": {"spec": {"podSelector": {"matchLabels": {"app": "web"}}}},
    "PodDisruptionBudget": {
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    },
    "Service": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_somebody_else_is_left_alone(
    api_server: ApiServer, namespace: str, kind: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    path = fleet.child_path(kind)
    collection, _, name = path.rpartition("/")
    fleet.client.post(collection, {"metadata": {"name": name}, **FOREIGN[kind]})
    fleet.create(EVERY_CHILD)
    told = fleet.wait_for("Accepted", "False", "NameTaken")
    real = "Service" if kind == "Discovery" else kind
    assert told.startswith(f"{real} {name} exists already and is not this fleet's: rename the")
    assert fleet.condition("Stalled")["status"] == "True"
    others = [each for each in KINDS if each != kind]
    fleet.wait(lambda: all(map(fleet.has_child, others)), "the other children are there")
    kept = fleet.client.get(path)
    for part in FOREIGN[kind]:
        assert _only(kept[part], FOREIGN[kind][part])
    for part in ("labels", "annotations", "ownerReferences"):
        assert "sampler.dev" not in str(kept["metadata"].get(part))
    assert {each["manager"] for each in kept["metadata"]["managedFields"]}.isdisjoint(
        {"sampler-operator"}
    )
    fleet.client.delete(path, {"propagationPolicy": "Background"})
    fleet.wait_for("Accepted")
    fleet.settle()
    owner = fleet.child(kind)["metadata"]["ownerReferences"][0]
    assert owner["uid"] == fleet.get()["metadata"]["uid"]


def _only(kept: Any, made: Any) -> bool:
    """Every part that was made is there and, where parts have names, no other of ours."""
    if isinstance(made, dict):
        is_same = all(name in kept and _only(kept[name], made[name]) for name in made)
        return is_same and "sampler.dev" not in str(kept)
    if isinstance(made, list):
        return len(kept) == len(made) and all(map(_only, kept, made))
    return bool(kept == made)


# -- what the spec wants, and does not want any more -----------------------------------------------


def test_children_come_and_go_with_the_spec(fleet: LiveFleet) -> None:
    fleet.change({"disruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}})
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        fleet.wait(lambda kind=kind: not fleet.has_child(kind), f"{kind} has gone")  # type: ignore[misc]
    fleet.settle()
    fleet.change({"disruptionBudget": {"enabled": True}, "networkPolicy": {"enabled": True}})
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        fleet.wait(lambda kind=kind: fleet.has_child(kind), f"{kind} is there again")  # type: ignore[misc]
    fleet.settle()
    assert len(fleet.replica_sets()) == 1


def test_the_strategy_changes_to_and_fro(fleet: LiveFleet) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert fleet.child("Deployment")["spec"]["strategy"] == rolling
    fleet.change({"rollout": {"strategy": "Recreate"}})
    fleet.settle()
    assert fleet.child("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    fleet.change({"rollout": {"strategy": "RollingUpdate", "maxSurge": "50%"}})
    fleet.settle()
    mixed = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 1}}
    assert fleet.child("Deployment")["spec"]["strategy"] == mixed
    assert len(fleet.replica_sets()) == 1


@pytest.fixture
def without_pod_monitors(api_server: ApiServer) -> Iterator[None]:
    """A test may install the kind; it is taken away after it."""
    remove_pod_monitors(api_server)
    yield
    remove_pod_monitors(api_server)


@pytest.mark.usefixtures("without_pod_monitors")
def test_a_pod_monitor_waits_for_its_kind(fleet: LiveFleet) -> None:
    fleet.change({"monitoring": {"podMonitor": {"labels": {"release": "p"}}}, "replicas": 3})
    told = fleet.wait_for("Accepted", "False", "MissingKind")
    assert told.startswith("PodMonitor fleet: the cluster has no PodMonitor")
    # All else goes on.
    fleet.wait(lambda: fleet.child("Deployment")["spec"]["replicas"] == 3, "the fleet is scaled")
    install_pod_monitors(fleet.server)
    fleet.wait_for("Accepted")
    fleet.settle()
    spec = fleet.child("PodMonitor")["spec"]
    assert spec["podMetricsEndpoints"] == [
        {"port": "manage", "path": "/metrics", "interval": "15s"}
    ]
    fleet.client.delete(fleet.child_path("PodMonitor"))
    fleet.wait(lambda: fleet.has_child("PodMonitor"), "the PodMonitor is there again")
    fleet.change({"monitoring": {"podMonitor": None}})
    fleet.wait(lambda: not fleet.has_child("PodMonitor"), "the PodMonitor has gone")
    fleet.settle()


@pytest.mark.usefixtures("without_pod_monitors")
def test_the_kind_of_pod_monitors_may_be_taken_away(
    fleet: LiveFleet, operator: OperatorProcess
) -> None:
    fleet.change({"monitoring": {"podMonitor": {}}})
    for replicas in (3, 2, 3, 2):
        install_pod_monitors(fleet.server)
        fleet.wait(lambda: fleet.client.exists(fleet.child_path("PodMonitor")), "it has a monitor")
        remove_pod_monitors(fleet.server)
        # The operator goes on, whether or not its watch was told in time.
        fleet.change({"replicas": replicas, "monitoring": {"podMonitor": None}})
        fleet.settle()
        fleet.change({"monitoring": {"podMonitor": {}}})
    assert operator.is_running


# -- pod templates ---------------------------------------------------------------------------------


def template(fleet: LiveFleet) -> Object:
    spec: Object = fleet.child("Deployment")["spec"]["template"]["spec"]
    return spec


def containers(fleet: LiveFleet) -> dict[str, Object]:
    return {each["name"]: each for each in template(fleet)["containers"]}


def test_overrides_add_and_take_away(fleet: LiveFleet) -> None:
    sidecar = {"name": "proxy", "image": "proxy:1"}
    tuned = {"name": "server", "livenessProbe": None, "env": [{"name": "A", "value": "1"}]}
    overrides = {"spec": {"containers": [sidecar, tuned], "hostNetwork": True}}
    spec = changed(dict(SIM), EVERY_CHILD | {"podTemplateOverrides": overrides})
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    fleet.kubectl(*apply, spec=spec)
    fleet.settle()
    assert containers(fleet).keys() == {"server", "proxy"}
    server = containers(fleet)["server"]
    assert "livenessProbe" not in server
    assert "readinessProbe" in server
    assert {"name": "A", "value": "1"} in server["env"]
    assert template(fleet)["hostNetwork"] is True
    # What an override has added goes with it, and what it has taken away comes back.
    fleet.kubectl(*apply, spec=changed(dict(SIM), EVERY_CHILD))
    fleet.settle()
    assert containers(fleet).keys() == {"server"}
    server = containers(fleet)["server"]
    assert "livenessProbe" in server
    assert "A" not in {each["name"] for each in server["env"]}
    assert "hostNetwork" not in template(fleet)


INVALID: Final = {
    "a name that no container may have": (
        {"spec": {"containers": [{"name": "No_Name", "image": "a"}]}},
        "Deployment fleet: ",
    ),
    "a field that no pod has": (
        {"spec": {"hostNetwrok": True}},
        "field not declared in schema",
    ),
    "a mount of a volume that is not there": (
        {
            "spec": {
                "containers": [
                    {"name": "server", "volumeMounts": [{"name": "none", "mountPath": "/none"}]}
                ]
            }
        },
        'volumeMounts[5].name: Not found: "none"',
    ),
}


@pytest.mark.parametrize(("overrides", "told"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_override_stops_no_pod(fleet: LiveFleet, overrides: Object, told: str) -> None:
    pods = {each["metadata"]["uid"] for each in fleet.pods()}
    fleet.change({"podTemplateOverrides": overrides, "disruptionBudget": {"maxUnavailable": 2}})
    said = fleet.wait_for("Accepted", "False", "InvalidPodTemplate")
    assert told in said, said
    ready = fleet.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert fleet.condition("UpToDate")["reason"] == "InvalidPodTemplate"
    # The other children follow, the pods stay.
    budget = fleet.child("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 2
    assert {each["metadata"]["uid"] for each in fleet.pods()} == pods
    fleet.change({"podTemplateOverrides": None})
    fleet.wait_for("Accepted")
    fleet.settle()
    assert {each["metadata"]["uid"] for each in fleet.pods()} == pods


def test_nulls_take_away_defaults_of_the_security_context(
    api_server: ApiServer, namespace: str
) -> None:
    fleet = LiveFleet(api_server, namespace)
    nulls = {"podSecurityContext": {"runAsUser": None, "fsGroup": None}}
    spec = changed(dict(SIM), nulls)
    fleet.kubectl("apply", "--server-side", "-f", "-", spec=spec)
    fleet.settle()
    context = template(fleet)["securityContext"]
    assert context.keys().isdisjoint({"runAsUser", "fsGroup"})
    assert context["runAsNonRoot"] is True
    fleet.kubectl("apply", "--server-side", "-f", "-", spec=SIM)
    fleet.settle()
    assert template(fleet)["securityContext"]["runAsUser"] == 2000
