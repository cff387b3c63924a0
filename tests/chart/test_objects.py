"""The objects of the chart: valid for every supported Kubernetes, and restricted."""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from tests.rendered_chart import (
    CHART,
    EVERYTHING_ON,
    NAMESPACE,
    RELEASE,
    Object,
    find,
    lint,
    nested,
    of_kind,
    render,
)

from sampler_operator.__main__ import app
from sampler_operator.metrics import OperatorMetrics
from sampler_operator.settings import default_images

OF_OTHERS = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, whose schemas Kubernetes does not have."""

SHAPES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "everything on": EVERYTHING_ON,
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "without roles, account and CRD": {
        "crds": {"install": False},
        "rbac": {"create": False, "aggregate": False, "client": {"create": False}},
        "serviceAccount": {"create": False},
    },
    "monitored": {
        "metrics": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    },
    "closed": {"networkPolicy": {"enabled": True}},
}


def minors() -> list[str]:
    """The oldest Kubernetes of Chart.yaml, and the newest whose schemas are known."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    oldest = re.fullmatch(r">=(\d+\.\d+)\.0-0", chart["kubeVersion"])
    assert oldest is not None
    return [oldest[1], kubernetes_validate.latest_version()]


def operator_pod(values: dict[str, Any] | None = None) -> Object:
    """The pod template of the operator."""
    [deployment] = of_kind(render(values), "Deployment")
    template: Object = deployment["spec"]["template"]
    return template


def check_pod(values: dict[str, Any] | None = None) -> Object:
    """The pod of `helm test`."""
    [pod] = of_kind(render(values), "Pod")
    return pod


def test_helm_s_linter_has_nothing_to_say() -> None:
    assert re.findall(r"^\[(?:WARNING|ERROR)\].*", lint(), re.MULTILINE) == []


@pytest.mark.parametrize(("shape", "minor"), list(product(SHAPES, minors())))
def test_every_object_is_valid(shape: str, minor: str) -> None:
    for each in render(SHAPES[shape]):
        if each["kind"] in OF_OTHERS:
            assert each["apiVersion"] == "monitoring.coreos.com/v1"
        else:
            kubernetes_validate.validate(each, minor, strict=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_says_whose_it_is(shape: str) -> None:
    for each in render(SHAPES[shape]):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/part-of"] == "sampler-operator"
        assert labels["helm.sh/chart"].startswith("sampler-operator-")


@pytest.mark.parametrize("shape", SHAPES)
def test_no_object_comes_twice(shape: str) -> None:
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in render(SHAPES[shape])
    ]
    assert len(names) == len(set(names))


def test_common_labels_and_annotations_are_on_all_objects_and_take_the_place_of_none() -> None:
    own = {"app.kubernetes.io/name": "mine", "example.com/team": "rl"}
    annotations = {"example.com/owner": "us", "helm.sh/resource-policy": "mine"}
    for each in render({"commonLabels": own, "commonAnnotations": annotations}):
        meta = each["metadata"]
        assert meta["labels"]["example.com/team"] == "rl"
        assert meta["labels"]["app.kubernetes.io/name"] == "sampler-operator"
        assert meta["annotations"]["example.com/owner"] == "us"
    crd = find(render({"commonAnnotations": annotations}), "CustomResourceDefinition", "*")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_there_is_one_operator_and_the_old_one_ends_first() -> None:
    spec = find(render(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_selector_stays_when_chart_and_labels_change() -> None:
    selectors = [
        find(render(values), "Deployment")["spec"]["selector"]
        for values in ({}, {"commonLabels": {"a": "b"}, "podLabels": {"c": "d"}})
    ]
    expected = {
        "app.kubernetes.io/name": "sampler-operator",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/component": "operator",
    }
    assert selectors == [{"matchLabels": expected}] * 2


@pytest.mark.parametrize("pod", [operator_pod, check_pod])
def test_a_pod_is_restricted(pod: Callable[[], Object]) -> None:
    spec = pod()["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(set(each) - {"name"})) for each in spec.get("volumes", [])} <= {"emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_an_operator_of_a_lost_node_is_elsewhere_after_half_a_minute() -> None:
    kept = {"key": "dedicated", "operator": "Exists"}
    tolerations = operator_pod({"tolerations": [kept]})["spec"]["tolerations"]
    assert kept in tolerations
    seconds = {each["key"]: each["tolerationSeconds"] for each in tolerations if each != kept}
    assert seconds == {
        "node.kubernetes.io/not-ready": 30,
        "node.kubernetes.io/unreachable": 30,
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_command_understands_its_options(shape: str) -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    values = SHAPES[shape]
    for spec in (operator_pod(values)["spec"], check_pod(values)["spec"]):
        [container] = spec["containers"]
        assert container["command"] == ["sampler-operator"]
        name, *words = container["args"]
        given = commands.commands[name].make_context(name, list(words)).params
        assert list(given["namespace"] or []) == values.get("watchNamespaces", [])


@pytest.mark.parametrize("engine", sorted(default_images()))
def test_the_image_of_an_engine_reaches_the_operator(engine: str) -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    understood = {each.envvar for each in commands.commands["run"].params if each.envvar}

    def told(values: dict[str, Any]) -> dict[str, str]:
        [container] = operator_pod(values)["spec"]["containers"]
        return {each["name"]: each.get("value", "") for each in container["env"]}

    name = f"SAMPLER_IMAGE_{engine.upper()}"
    assert {name, "POD_NAMESPACE"} <= understood
    assert told(nested(f"images.{engine}", "acme/image@sha256:1"))[name] == "acme/image@sha256:1"
    assert set(told({})) <= understood | {"HOME"}


IMAGES = [
    ("the version of the chart", {}, ":0.1.0"),
    ("a tag", {"tag": "main"}, ":main"),
    ("a digest, whatever the tag", {"tag": "main", "digest": f"sha256:{'0' * 64}"}, "@sha256:0000"),
]


@pytest.mark.parametrize(
    ("image", "end"), [(image, end) for _, image, end in IMAGES], ids=[each[0] for each in IMAGES]
)
def test_the_operator_s_image_is_pinned_by(image: dict[str, str], end: str) -> None:
    for spec in (operator_pod({"image": image})["spec"], check_pod({"image": image})["spec"]):
        [container] = spec["containers"]
        assert container["image"].startswith(f"ghcr.io/sampler-operator/sampler-operator{end}")


def test_probes_and_prometheus_use_the_port_that_the_operator_opens() -> None:
    values = {"metrics": {"port": 9000, "podMonitor": {"enabled": True}}}
    [container] = operator_pod(values)["spec"]["containers"]
    assert "--metrics-port=9000" in container["args"]
    [port] = container["ports"]
    assert (port["name"], port["containerPort"]) == ("metrics", 9000)
    probes = container["livenessProbe"]["httpGet"], container["readinessProbe"]["httpGet"]
    assert [each["port"] for each in probes] == ["metrics", "metrics"]
    assert [each["path"] for each in probes] == ["/healthz", "/readyz"]
    monitor = find(render(values), "PodMonitor")["spec"]
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == ["metrics"]


def test_monitor_and_policy_mean_the_operator_s_pod_and_not_that_of_the_test() -> None:
    values = SHAPES["monitored"] | SHAPES["closed"]
    monitor = find(render(values), "PodMonitor")["spec"]["selector"]["matchLabels"]
    policy = find(render(values), "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for selector in (monitor, policy):
        assert selector.items() <= operator_pod(values)["metadata"]["labels"].items()
        assert not selector.items() <= check_pod(values)["metadata"]["labels"].items()


def test_the_policy_opens_the_metrics_port_alone() -> None:
    spec = find(render(SHAPES["closed"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    values = {"networkPolicy": {"enabled": True, "from": peers}}
    assert find(render(values), "NetworkPolicy")["spec"]["ingress"][0]["from"] == peers


def metric_names() -> set[str]:
    """Every series of the operator."""
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry)
    metrics.passed(0.1, ValueError())
    page = generate_latest(registry).decode()
    types = re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)
    return {*types, *re.findall(r"^(\w+)[{ ]", page, re.MULTILINE)}


def test_alerts_ask_for_metrics_and_states_that_there_are() -> None:
    rule = find(render(SHAPES["monitored"]), "PrometheusRule")
    [group] = rule["spec"]["groups"]
    asked = " ".join(each["expr"] for each in group["rules"])
    assert set(re.findall(r"sampler_\w+", asked)) <= metric_names()
    assert set(re.findall(r'state="(\w+)"', asked)) == {"stalled", "unready"}
    assert set(re.findall(r'result="(\w+)"', asked)) == {"error"}
    assert set(re.findall(r'namespace="([^"]+)"', asked)) == {NAMESPACE}
    for each in group["rules"]:
        assert set(each["annotations"]) == {"summary", "description"}, each["alert"]
        assert "%!" not in str(each), "a value was not filled in"


CRDS = [
    ("kept at uninstall", {}, {"helm.sh/resource-policy": "keep"}),
    ("a part of the release", {"keep": False}, None),
]


@pytest.mark.parametrize(
    ("crds", "annotations"), [each[1:] for each in CRDS], ids=[each[0] for each in CRDS]
)
def test_the_crd_is(crds: dict[str, bool], annotations: dict[str, str] | None) -> None:
    crd = find(render({"crds": crds}), "CustomResourceDefinition", "*")
    assert crd["metadata"].get("annotations") == annotations


NAMES = [
    ("the release", "sampler-operator", {}, "sampler-operator"),
    ("release and chart", "rl", {}, "rl-sampler-operator"),
    ("what is said", "rl", {"fullnameOverride": "ours"}, "ours"),
    ("release and another word", "rl", {"nameOverride": "sampling"}, "rl-sampling"),
    ("short enough", "r" * 53, {}, "r" * 53),
]


@pytest.mark.parametrize(
    ("release", "values", "name"), [each[1:] for each in NAMES], ids=[each[0] for each in NAMES]
)
def test_names_are(release: str, values: dict[str, str], name: str) -> None:
    objects = render(values, release=release)
    assert find(objects, "Deployment", name)
    assert all(len(each["metadata"]["name"]) <= 63 for each in objects)
