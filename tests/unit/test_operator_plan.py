"""What has to be written: created, applied, deleted, or left alone; and what the children are."""

from collections.abc import Iterable
from typing import Any

import pytest
from tests.spec_cases import EVERYTHING, MINIMAL, VALID, changed, manifest

from sampler_api.fleet import AdaptersConfig
from sampler_operator import names
from sampler_operator.names import Key, Ref
from sampler_operator.objects import Manifest, ref_of
from sampler_operator.observed import ChildView, Observed, child_view
from sampler_operator.plan import BuildSettings, Plan, desired, planned
from sampler_operator.pod import LAYOUTS, chosen_template
from sampler_operator.spec import SamplerDeployment
from sampler_operator.spec.parse import parse

UID = "5f1c"
CONFIG = AdaptersConfig()
SETTINGS = BuildSettings({kind: f"acme/{kind}:1" for kind in ("vllm", "torch", "sim")}, "operators")
NEWER = BuildSettings({kind: f"acme/{kind}:2" for kind in SETTINGS.images}, "operators")

DEPLOYMENT, BUDGET = Ref("Deployment", "fleet"), Ref("PodDisruptionBudget", "fleet")
ADAPTERS = Ref("ConfigMap", "fleet-adapters")
HTTP, DISCOVERY = Ref("Service", "fleet"), Ref("Service", "fleet-replicas")
MONITOR, POLICY = Ref("PodMonitor", "fleet"), Ref("NetworkPolicy", "fleet")
FIVE = {ADAPTERS, DISCOVERY, HTTP, BUDGET, DEPLOYMENT}


def sd(change: dict[str, Any] | None = None, uid: str = UID) -> SamplerDeployment:
    made = manifest(changed(MINIMAL, change or {}))
    made["metadata"] |= {"namespace": "rl", "uid": uid}
    return parse(made)


def built(fleet: SamplerDeployment) -> list[Manifest]:
    template = chosen_template(fleet, {}, "acme/torch:1", LAYOUTS)
    return desired(fleet, template, CONFIG, SETTINGS)


def seen(children: Iterable[Manifest]) -> dict[Ref, ChildView]:
    views = [child_view({**child, "status": {"seen": True}}) for child in children]
    return {view.ref: view for view in views}


def plan(
    fleet: SamplerDeployment,
    children: Iterable[Manifest] = (),
    settings: BuildSettings = SETTINGS,
    config: AdaptersConfig = CONFIG,
) -> Plan:
    return planned(fleet, Observed({}, seen(children)), config, settings)


def applied(made: Plan) -> set[Ref]:
    return {ref_of(manifest) for manifest in made.applies}


def one(children: Iterable[Manifest], ref: Ref) -> Manifest:
    [found] = [child for child in children if ref_of(child) == ref]
    return found


# Decisions


def test_a_new_fleet_gets_all_that_it_needs_in_one_pass() -> None:
    made = plan(sd())
    assert applied(made) == FIVE
    assert made.deletes == ()
    assert set(made.details) == {f"create {ref}: it does not exist" for ref in FIVE}


def test_pods_come_last_since_they_need_the_rest() -> None:
    assert ref_of(plan(sd()).applies[-1]) == DEPLOYMENT


def test_nothing_is_done_twice() -> None:
    made = plan(sd(), built(sd()))
    assert (made.applies, made.deletes, made.details) == ((), (), ())


def test_what_is_missing_is_made_again() -> None:
    made = plan(sd(), [child for child in built(sd()) if ref_of(child) != HTTP])
    assert applied(made) == {HTTP}
    assert made.details == ("create Service fleet: it does not exist",)


def test_what_others_changed_is_set_right() -> None:
    children = built(sd())
    one(children, DEPLOYMENT)["spec"]["replicas"] = 9
    made = plan(sd(), children)
    assert applied(made) == {DEPLOYMENT}
    assert made.details == ("apply Deployment fleet: it differs from what the spec says",)


def test_what_others_added_is_left_alone() -> None:
    children = built(sd())
    for child in children:
        child["metadata"]["annotations"]["example.com/note"] = "mine"
        child["metadata"]["labels"]["example.com/team"] = "a"
    assert plan(sd(), children).details == ()


def test_a_field_that_the_spec_no_longer_has_is_taken_out() -> None:
    made = plan(sd(), built(sd({"priorityClassName": "high"})))
    assert applied(made) == {DEPLOYMENT}


def test_a_child_that_is_no_longer_wanted_is_deleted() -> None:
    made = plan(sd({"disruptionBudget": {"enabled": False}}), built(sd()))
    assert made.deletes == (BUDGET,)
    assert made.details == ("delete PodDisruptionBudget fleet: the spec does not want it",)


def test_a_child_of_a_former_operator_that_nobody_builds_any_more_is_deleted() -> None:
    old = {**one(built(sd()), HTTP), "kind": "Service"}
    old["metadata"] = {**old["metadata"], "name": "fleet-legacy"}
    assert plan(sd(), [*built(sd()), old]).deletes == (Ref("Service", "fleet-legacy"),)


def test_a_child_of_another_owner_is_neither_deleted_nor_counted() -> None:
    others = built(sd({"monitoring": {"podMonitor": {}}}, uid="other"))
    made = plan(sd(), others)
    assert made.deletes == ()
    assert applied(made) == FIVE
    assert set(made.details) == {f"create {ref}: it does not exist" for ref in FIVE}


def test_an_upgraded_operator_touches_nothing() -> None:
    made = plan(sd(), built(sd()), NEWER)
    assert made.details == ()
    assert made.template.default_image == "acme/torch:1"


def test_with_an_upgraded_operator_scaling_keeps_the_image() -> None:
    made = plan(sd({"replicas": 2}), built(sd()), NEWER)
    [deployment] = made.applies
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "acme/torch:1"


def test_with_an_upgraded_operator_a_changed_template_gets_the_new_image() -> None:
    made = plan(sd({"rollout": {"drainSeconds": 5}}), built(sd()), NEWER)
    [deployment] = made.applies
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "acme/torch:2"
    assert deployment["metadata"]["annotations"][names.DEFAULT_IMAGE] == "acme/torch:2"
    assert "the default image goes from acme/torch:1 to acme/torch:2" in made.details


def test_adapters_that_replicas_hold_change_the_config_map_alone() -> None:
    made = plan(sd(), built(sd()), config=AdaptersConfig(required=()))
    assert applied(made) == {ADAPTERS}


# Which children there are


WANTED: dict[str, tuple[dict[str, Any], set[Ref]]] = {
    "five of them": ({}, FIVE),
    "a PodMonitor if it is asked for": ({"monitoring": {"podMonitor": {}}}, {*FIVE, MONITOR}),
    "a NetworkPolicy if it is asked for": ({"networkPolicy": {"enabled": True}}, {*FIVE, POLICY}),
    "no budget if it is not wanted": ({"disruptionBudget": {"enabled": False}}, FIVE - {BUDGET}),
}


@pytest.mark.parametrize(("change", "refs"), WANTED.values(), ids=WANTED.keys())
def test_there_are(change: dict[str, Any], refs: set[Ref]) -> None:
    assert {ref_of(child) for child in built(sd(change))} == refs


@pytest.mark.parametrize("spec", VALID.values(), ids=VALID.keys())
def test_every_child_belongs_to_its_fleet(spec: dict[str, Any]) -> None:
    made = manifest(spec)
    made["metadata"] |= {"namespace": "rl", "uid": UID}
    for child in built(parse(made)):
        meta = child["metadata"]
        assert meta["namespace"] == "rl"
        assert names.labels(Key("rl", "fleet")).items() <= meta["labels"].items()
        [owner] = meta["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (UID, True)
        assert child_view(child).owner == UID
        assert meta["annotations"][names.DIGEST]


def test_the_longest_name_leaves_room_for_those_of_children() -> None:
    longest = "a" * 40
    made = manifest(EVERYTHING, longest)
    for child in built(parse(made)):
        name = child["metadata"]["name"]
        assert name.startswith(longest)
        # Names of Services are DNS labels.
        assert len(name) <= 63


def test_two_kinds_of_services_have_two_names() -> None:
    key = Key("rl", "fleet")
    assert len({names.service_name(key), names.discovery_name(key)}) == 2


# What they say


def test_clients_find_each_engine_of_each_replica() -> None:
    service = one(built(sd({"enginesPerGPU": 3})), DISCOVERY)["spec"]
    assert service["clusterIP"] == "None"
    assert [(port["name"], port["port"]) for port in service["ports"]] == [
        ("data", 8000),
        ("data-1", 8001),
        ("data-2", 8002),
    ]


def test_endpoint_slices_say_that_a_fleet_speaks_tls_and_else_nothing() -> None:
    plain = one(built(sd({"enginesPerGPU": 2})), DISCOVERY)["spec"]["ports"]
    assert [port.get("appProtocol") for port in plain] == [None, None]
    spec = {"enginesPerGPU": 2, "tls": {"secretName": "certificate"}}
    encrypted = one(built(sd(spec)), DISCOVERY)["spec"]["ports"]
    assert encrypted == [{**port, "appProtocol": "https"} for port in plain]


def test_people_have_one_address_with_one_port() -> None:
    service = one(built(sd({"enginesPerGPU": 3})), HTTP)["spec"]
    assert "clusterIP" not in service
    assert [port["targetPort"] for port in service["ports"]] == ["data"]


def test_ports_of_services_are_ports_of_the_server() -> None:
    children = built(sd({"enginesPerGPU": 2}))
    [server] = one(children, DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    there = {port["name"]: port["containerPort"] for port in server["ports"]}
    for ref in (HTTP, DISCOVERY):
        for port in one(children, ref)["spec"]["ports"]:
            assert there[port["targetPort"]] == port["port"]


def test_selectors_select_the_pods_of_the_fleet() -> None:
    children = built(sd({"networkPolicy": {"enabled": True}, "monitoring": {"podMonitor": {}}}))
    labels = one(children, DEPLOYMENT)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(children, HTTP)["spec"]["selector"],
        one(children, DISCOVERY)["spec"]["selector"],
        one(children, DEPLOYMENT)["spec"]["selector"]["matchLabels"],
        one(children, BUDGET)["spec"]["selector"]["matchLabels"],
        one(children, POLICY)["spec"]["podSelector"]["matchLabels"],
        one(children, MONITOR)["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector == names.selector(Key("rl", "fleet"))
        assert selector.items() <= labels.items()


STRATEGIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one at a time by default": (
        {},
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    ),
    "in shares": (
        {"maxSurge": "25%", "maxUnavailable": "0%"},
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "0%"}},
    ),
    "all at once": ({"strategy": "Recreate"}, {"type": "Recreate", "rollingUpdate": None}),
}


@pytest.mark.parametrize(("rollout", "strategy"), STRATEGIES.values(), ids=STRATEGIES.keys())
def test_pods_are_replaced(rollout: dict[str, Any], strategy: dict[str, Any]) -> None:
    assert one(built(sd({"rollout": rollout})), DEPLOYMENT)["spec"]["strategy"] == strategy


def test_a_budget_never_protects_what_does_not_serve() -> None:
    budget = one(built(sd({"disruptionBudget": {"maxUnavailable": "10%"}})), BUDGET)["spec"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["maxUnavailable"] == "10%"


PEER = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
FLEET_PEER = {"podSelector": {"matchLabels": {names.FLEET_LABEL: "fleet"}}}


def ingress(policy: dict[str, Any], settings: BuildSettings = SETTINGS) -> list[Manifest]:
    fleet = sd({"networkPolicy": {"enabled": True, **policy}})
    template = chosen_template(fleet, {}, "acme/torch:1", LAYOUTS)
    made = one(desired(fleet, template, CONFIG, settings), POLICY)
    rules: list[Manifest] = made["spec"]["ingress"]
    return rules


def test_a_policy_lets_peers_and_the_fleet_itself_to_the_data_port() -> None:
    [data, _] = ingress({"from": [PEER]})
    assert data == {"from": [PEER, FLEET_PEER], "ports": [{"port": 8000, "protocol": "TCP"}]}


def test_a_policy_without_peers_lets_nobody_but_the_fleet_to_the_data_port() -> None:
    # A rule without peers would let everybody in.
    [data, _] = ingress({})
    assert data["from"] == [FLEET_PEER]


def test_a_policy_lets_the_operator_and_monitoring_to_the_management_port() -> None:
    [_, manage] = ingress({"monitoringNamespaces": ["monitoring", "operators"]})
    watchers = [peer["namespaceSelector"]["matchLabels"] for peer in manage["from"]]
    assert [labels["kubernetes.io/metadata.name"] for labels in watchers] == [
        "monitoring",
        "operators",
    ]
    assert manage["ports"] == [{"port": 9000, "protocol": "TCP"}]


def test_a_policy_of_an_operator_without_a_namespace_lets_nobody_to_the_management_port() -> None:
    [data] = ingress({}, BuildSettings(SETTINGS.images))
    assert data["from"] == [FLEET_PEER]


def test_a_monitor_has_the_labels_that_prometheus_selects() -> None:
    asked = {"podMonitor": {"labels": {"release": "a", names.FLEET_LABEL: "other"}}}
    monitor = one(built(sd({"monitoring": asked})), MONITOR)
    labels = monitor["metadata"]["labels"]
    assert (labels["release"], labels[names.FLEET_LABEL]) == ("a", "fleet")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "manage", "path": "/metrics", "interval": "15s"}
